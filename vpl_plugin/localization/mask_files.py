"""Masks as palette PNG files, in PASCAL VOC's colours."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.checks import check_mask
from vpl_plugin.errors import InputError
from vpl_plugin.results import MADE_FROM

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


def write_mask(
    path: str | os.PathLike[str], mask: np.ndarray, *, made_from: str | None = None
) -> None:
    """Write a mask as a palette PNG, whole or not at all.

    The file is written under a temporary name beside ``path`` and then renamed, so that a process
    killed on the way leaves no broken mask.

    Args:
        path: of the PNG file; its folder must exist.
        mask: (H, W) uint8 labels.
        made_from: the digest of its inputs, kept as a text of the PNG; see
            :class:`~vpl_plugin.results.Results`.

    Raises:
        TypeError: the mask is no uint8 array.
        InputError: the mask is not (H, W).
        OSError: the file cannot be written.
    """
    check_mask(mask)
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    texts = {}
    if made_from is not None:
        texts["pnginfo"] = PngInfo()
        texts["pnginfo"].add_text(MADE_FROM, made_from)
    with whole_file(path) as part:
        image.save(part, format="PNG", **texts)


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """The labels (H, W) uint8 of a palette or grey-level PNG.

    A palette image gives its indices, whatever their colours; with two exceptions. Programs that
    shrink or quantise images move VOC's colours to other indices: a mask that has only those,
    the colour of 255 among them, is read by its colours. Where the palette says that the indices
    are no labels, and not which ones they would be, the mask is refused.

    Args:
        path: of the file.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: no such file.
        InputError: not an image, a broken one, or one whose pixels are no 8-bit labels; the message
            names the file.
    """
    # Pillow's decoders raise whatever a damaged header leads them to.
    try:
        with Image.open(path) as image:
            mode = image.mode
            mask = np.array(image)
            colours = image.getpalette("RGB") if mode == "P" else None
    except FileNotFoundError:
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{path} is not a readable mask: {why}") from error
    if mode not in ("P", "L"):
        raise InputError(
            f"{path} must be a palette or 8-bit grey-level image, one label per pixel;"
            f" got mode {mode}"
        )
    if colours is None:
        return mask
    try:
        return _labels_of(mask, np.array(colours, dtype=np.uint8).reshape(-1, 3))
    except ValueError as error:
        raise InputError(f"{path} {error}") from error


def _labels_of(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The labels that palette indices (H, W) stand for; raises where that is unknown."""
    voc = voc_palette()
    if np.array_equal(palette, voc[: len(palette)]):
        return indices
    used = np.bincount(indices.ravel(), minlength=256).nonzero()[0]
    if used[-1] >= len(palette):
        return indices
    shown = palette[used]
    if (shown == used[:, None]).all() or (shown == voc[used]).all():
        # Grey levels, or VOC's palette as far as it is used.
        return indices
    label_of = {tuple(colour): label for label, colour in enumerate(voc.tolist())}
    labels = [label_of[tuple(colour)] for colour in shown.tolist() if tuple(colour) in label_of]
    if len({*labels}) == len(used):
        if IGNORE_INDEX in labels:
            table = np.zeros(256, np.uint8)
            table[used] = labels
            return table[indices]
        moved = next(i for i, label in zip(used, labels, strict=True) if i != label)
        raise InputError(
            f"has PASCAL VOC's colours at other palette indices, such as that of the label"
            f" {label_of[tuple(palette[moved].tolist())]} at {moved}: save it with VOC's palette,"
            " or its labels as grey levels"
        )
    black = [i for i in used if not palette[i].any() and i not in (0, IGNORE_INDEX)]
    if black and palette[0].any():
        raise InputError(
            f"has black at the palette index {black[0]} and the colour {palette[0].tolist()} at 0,"
            " where the background is expected: save it with VOC's palette, or its labels as grey"
            " levels"
        )
    return indices


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
