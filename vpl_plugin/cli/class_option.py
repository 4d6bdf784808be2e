"""The option ``--classes``: a data set's classes, or a list of one's own."""

from __future__ import annotations

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames
from vpl_plugin.localization.mask_files import IGNORE_INDEX

__all__ = ["class_names"]

DATA_SETS = {"voc": VOC, "coco": COCO}
# Masks hold 8 bits: 0 is the background, and IGNORE_INDEX no class.
MOST_CLASSES = IGNORE_INDEX - 1


def class_names(text: str) -> ClassNames:
    """The classes that ``--classes`` names: a data set's, or a list of one's own.

    Args:
        text: "voc", "coco", or class names with commas between; the latter get VOC's background.

    Returns:
        Labels, prompts and background names.

    Raises:
        ValueError: no name is given, one twice, or more than the label maps can hold.

    Example:
        >>> class_names("zebra, giraffe").labels
        ('zebra', 'giraffe')
    """
    if text.lower() in DATA_SETS:
        return DATA_SETS[text.lower()]
    labels = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(labels) > MOST_CLASSES:
        raise ValueError(
            f"--classes must name at most {MOST_CLASSES} classes, as label maps hold 8 bits; got"
            f" {len(labels)}"
        )
    return ClassNames("--classes", labels, labels, VOC.background)
