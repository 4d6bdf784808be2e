"""Random scale, crop and flip, of a photo and its mask alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from vpl_plugin.checks import check_count
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX

__all__ = [
    "PADDING",
    "Crop",
    "Window",
    "augment",
    "crop_mask",
    "cut_out",
    "draw_crop",
    "random_window",
]

# CLIP's mean colour, which normalisation takes to 0.
PADDING = (123, 117, 104)


class Window(NamedTuple):
    """Where a crop lies along one axis of a photo, in steps (pixels, or patches).

    Attributes:
        start: the first step of the photo that is in the crop.
        length: how many steps of the photo are.
        offset: where they lie in the crop; what is before and after them is padding.
    """

    start: int
    length: int
    offset: int


class Crop(NamedTuple):
    """What is drawn for a photo and its mask.

    Attributes:
        scaled: (H, W) of the photo after scaling.
        rows: where the crop lies in it, in pixels.
        columns: the same across.
        side: of the crop in pixels.
        mirrored: left and right exchanged, of the crop.
    """

    scaled: tuple[int, int]
    rows: Window
    columns: Window
    side: int
    mirrored: bool


def random_window(size: int, crop: int, rng: np.random.Generator) -> Window:
    """A crop of ``crop`` steps from ``size`` steps, padded at both ends where these are fewer."""
    if size >= crop:
        return Window(int(rng.integers(size - crop + 1)), crop, 0)
    return Window(0, size, int(rng.integers(crop - size + 1)))


def augment(
    photo: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: int,
    scales: tuple[float, float] = (0.5, 2.0),
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop of the photo, enlarged or reduced at random, mirrored in half of the cases.

    Only what is in the crop is resized. The photo is resampled bilinearly, the mask by nearest
    neighbour, so it keeps its labels.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8.
        rng: the source of all that is random here.
        crop: side of the result in pixels. Where the scaled photo is smaller, the crop is filled
            up with CLIP's mean colour, and the mask with 255.
        scales: the range that the scale is drawn from, evenly.

    Returns:
        (crop, crop, 3) and (crop, crop), uint8.

    Raises:
        InputError: the mask is not of the photo's size, or a setting is out of range.

    Example:
        >>> photo, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
        >>> cropped, labels = augment(photo, mask, np.random.default_rng(0), crop=16)
        >>> cropped.shape, labels.shape
        ((16, 16, 3), (16, 16))
    """
    if photo.ndim != 3 or photo.shape[:2] != mask.shape:
        raise InputError(
            f"photo must be (H, W, 3) and mask (H, W); got {photo.shape} and {mask.shape}"
        )
    check_count("crop", crop)
    check_scales(scales)
    return cut_out(photo, mask, draw_crop(mask.shape, rng, crop=crop, scales=scales))


def draw_crop(
    size: tuple[int, ...], rng: np.random.Generator, *, crop: int, scales: tuple[float, float]
) -> Crop:
    """What :func:`augment` does with a photo of a size (H, W)."""
    scale = rng.uniform(*scales)
    height, width = (max(1, round(side * scale)) for side in size)
    rows, columns = (random_window(side, crop, rng) for side in (height, width))
    return Crop((height, width), rows, columns, crop, bool(rng.random() < 0.5))


def cut_out(photo: np.ndarray, mask: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """The crop of a photo and of its mask, as :func:`augment` gives them."""
    scaled, rows, columns, side, mirrored = crop
    region = Image.fromarray(photo).resize(
        (columns.length, rows.length),
        Image.Resampling.BILINEAR,
        box=_box(rows, columns, scaled, mask.shape),
    )
    cropped = np.empty((side, side, 3), np.uint8)
    cropped[:] = PADDING
    _inner(cropped, rows, columns)[:] = np.asarray(region)
    labels = crop_mask(mask, rows, columns, scaled, crop=(side, side))
    if mirrored:
        return np.ascontiguousarray(cropped[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    return cropped, labels


def crop_mask(
    mask: np.ndarray,
    rows: Window,
    columns: Window,
    scaled: tuple[int, ...],
    crop: tuple[int, int],
) -> np.ndarray:
    """A crop (crop[0], crop[1]) of a mask resized to ``scaled`` by nearest neighbour.

    The windows are in pixels of the resized mask; beside it the crop is 255.
    """
    region = Image.fromarray(mask).resize(
        (columns.length, rows.length),
        Image.Resampling.NEAREST,
        box=_box(rows, columns, scaled, mask.shape),
    )
    labels = np.full(crop, IGNORE_INDEX, np.uint8)
    _inner(labels, rows, columns)[:] = np.asarray(region)
    return labels


def check_scales(scales: Sequence[float]) -> None:
    """A range of positive numbers."""
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise InputError(f"scales must be (least, largest), both above 0; got {scales!r}")


def _inner(crop: np.ndarray, rows: Window, columns: Window) -> np.ndarray:
    return crop[
        rows.offset : rows.offset + rows.length,
        columns.offset : columns.offset + columns.length,
    ]


def _box(
    rows: Window, columns: Window, scaled: tuple[int, ...], size: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """The windows in pixels of the photo: left, upper, right, lower."""
    down, across = size[0] / scaled[0], size[1] / scaled[1]
    return (
        columns.start * across,
        rows.start * down,
        # Rounding must not carry the box over the edge.
        min((columns.start + columns.length) * across, size[1]),
        min((rows.start + rows.length) * down, size[0]),
    )
