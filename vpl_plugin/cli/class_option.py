"""The option ``--classes``: a data set's classes, or a list of one's own."""

from __future__ import annotations

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames

__all__ = ["class_names"]

DATA_SETS = {"voc": VOC, "coco": COCO}


def class_names(text: str) -> ClassNames:
    """The classes that ``--classes`` names: a data set's, or a list of one's own.

    Args:
        text: "voc", "coco", or class names with commas between; the latter get VOC's background.

    Returns:
        Labels, prompts and background names.

    Raises:
        ValueError: no name is given, or one twice.

    Example:
        >>> class_names("zebra, giraffe").labels
        ('zebra', 'giraffe')
    """
    if text.lower() in DATA_SETS:
        return DATA_SETS[text.lower()]
    labels = tuple(name.strip() for name in text.split(",") if name.strip())
    return ClassNames("--classes", labels, labels, VOC.background)
