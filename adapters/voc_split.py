"""A split of photos in PASCAL VOC's layout, with masks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["MaskedPhoto", "present_classes", "voc_split"]

IGNORE_INDEX = 255


class MaskedPhoto(NamedTuple):
    """A photo of a split and its mask.

    Attributes:
        name: as the split file gives it.
        photo: path of the JPEG.
        mask: path of the PNG.
    """

    name: str
    photo: Path
    mask: Path


def voc_split(
    root: str | os.PathLike[str],
    split: str | os.PathLike[str],
    *,
    masks: str = "SegmentationClass",
) -> list[MaskedPhoto]:
    """The photos a split file names, one name a line, under ``JPEGImages`` and a masks folder.

    Args:
        root: the folder that holds ``JPEGImages`` and the masks folder.
        split: the split file; a relative path is looked up in ``root`` first.
        masks: the masks folder's name.

    Returns:
        The photos, in the order of the file.

    Raises:
        FileNotFoundError: the split file, a photo or a mask is missing; the message names it.
        ValueError: the split file names no photo.
    """
    root = Path(root)
    file = root / split if (root / split).is_file() else Path(split)
    if not file.is_file():
        raise FileNotFoundError(f"split file {str(split)!r} is neither in {root} nor a path itself")
    # Some split files hold labels after the name.
    names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"split file {file} names no photo")
    photos = [
        MaskedPhoto(name, root / "JPEGImages" / f"{name}.jpg", root / masks / f"{name}.png")
        for name in names
    ]
    for item in photos:
        for path in (item.photo, item.mask):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; {file} names {item.name}")
    return photos


def present_classes(mask: np.ndarray) -> list[int]:
    """The image-level labels of a mask: class indices, the background and ignored pixels left out.

    Args:
        mask: (H, W) uint8: 0 background, class + 1, 255 ignored.

    Returns:
        Class indices from 0, ascending.

    Example:
        >>> present_classes(np.array([[0, 15], [255, 3]], dtype=np.uint8))
        [2, 14]
    """
    return [int(label) - 1 for label in np.unique(mask) if label not in (0, IGNORE_INDEX)]
