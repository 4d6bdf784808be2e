"""Masks as palette PNG files, in PASCAL VOC's colours."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.localization.checks import check_mask

__all__ = ["IGNORE_INDEX", "present_classes", "read_mask", "voc_palette", "write_mask"]

# The label of a pixel whose class is unknown, or not to be counted.
IGNORE_INDEX = 255


def voc_palette() -> np.ndarray:
    """PASCAL VOC's colour of each of 256 labels.

    Bits 0, 1 and 2 of the label are the highest bits of red, green and blue, bits 3, 4 and 5 the
    next ones, and so on.

    Returns:
        (256, 3) uint8, RGB.

    Example:
        >>> voc_palette()[[0, 1, 15, 255]].tolist()
        [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    labels = np.arange(256)[:, None]
    channels = np.arange(3)
    colours = sum((labels >> (3 * bit + channels) & 1) << (7 - bit) for bit in range(3))
    return np.asarray(colours, dtype=np.uint8)


def write_mask(path: str | os.PathLike[str], mask: np.ndarray) -> None:
    """Write a mask as a palette PNG, whole or not at all.

    The file is written under a temporary name beside ``path`` and then renamed, so that a process
    killed on the way leaves no broken mask.

    Args:
        path: of the PNG file; its folder must exist.
        mask: (H, W) uint8 labels.

    Raises:
        TypeError: the mask is no uint8 array.
        ValueError: the mask is not (H, W).
        OSError: the file cannot be written.
    """
    check_mask(mask)
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    with whole_file(path) as part:
        image.save(part, format="PNG")


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """The labels (H, W) uint8 of a palette or grey-level PNG.

    Args:
        path: of the file.

    Returns:
        (H, W) uint8; palette images give their indices, not colours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, a broken one, or one whose pixels are no 8-bit labels; the message
            names the file.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            mask = np.array(image)
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is not a readable mask: {error}") from error
    if mode not in ("P", "L"):
        raise ValueError(
            f"{path} must be a palette or 8-bit grey-level image, one label a pixel;"
            f" got mode {mode}"
        )
    return mask


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
