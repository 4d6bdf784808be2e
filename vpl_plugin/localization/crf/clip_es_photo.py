"""The photo as CLIP-ES hands it to its dense CRF."""

from __future__ import annotations

import numpy as np

from vpl_plugin.checks import check_photo

__all__ = ["clip_es_photo"]

_MEAN_BGR = np.array([104.008, 116.669, 122.675], dtype=np.float32)


def clip_es_photo(photo: np.ndarray) -> np.ndarray:
    """The photo as CLIP-ES's script hands it to its CRF, for results equal to upstream's.

    Its channels are BGR, ImageNet's mean is subtracted, and the cast back to uint8 wraps around: a
    value a little below zero becomes one a little below 256. For work of your own the plain photo
    is the natural choice.

    Args:
        photo: (H, W, 3) uint8, RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        TypeError: not uint8.
        InputError: wrong shape.

    Example:
        >>> clip_es_photo(np.array([[[0, 120, 255]]], np.uint8))
        array([[[150,   3, 134]]], dtype=uint8)
    """
    shifted = check_photo(photo)[..., ::-1].astype(np.float32) - _MEAN_BGR
    # By way of int32, as a float below zero has no defined uint8.
    return shifted.astype(np.int32).astype(np.uint8)
