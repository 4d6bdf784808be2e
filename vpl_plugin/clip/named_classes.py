"""Classes by name: a data set's, or a list of one's own."""

from __future__ import annotations

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames
from vpl_plugin.errors import InputError

__all__ = ["class_names"]

DATA_SETS = {"voc": VOC, "coco": COCO}
# Label maps hold 8 bits: 0 is the background, and 255 no class.
MOST_CLASSES = 254


def class_names(text: str) -> ClassNames:
    """The classes that a text such as that of ``--classes`` names.

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
        raise InputError(
            f"--classes must name at most {MOST_CLASSES} classes, as label maps hold 8 bits; got"
            f" {len(labels)}"
        )
    return ClassNames("--classes", labels, labels, VOC.background)
