"""Which pixels of a photo prototypes are learned from: one rule, in memory and on files."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["draw_pixels"]


def draw_pixels(pixels: int, name: str, pixels_per_photo: int | None, seed: int = 0) -> np.ndarray:
    """Which of a photo's pixels to keep, ascending; the photo's name and the seed alone decide.

    Args:
        pixels: how many there are.
        name: of the photo.
        pixels_per_photo: how many to keep; None keeps all.
        seed: of the draw.

    Returns:
        (p,) int64 indices.

    Example:
        >>> draw_pixels(6, "cat.jpg", 3)
        array([0, 2, 5])
        >>> len(draw_pixels(6, "cat.jpg", None))
        6
    """
    if pixels_per_photo is None or pixels_per_photo >= pixels:
        return np.arange(pixels)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return np.sort(generator.choice(pixels, pixels_per_photo, replace=False))
