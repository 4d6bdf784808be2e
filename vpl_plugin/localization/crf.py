"""Dense CRF (Krähenbühl and Koltun, 2011) with the settings of CLIP-ES."""

from __future__ import annotations

import numpy as np

from vpl_plugin.core.checks import check_count, check_positive
from vpl_plugin.localization.checks import check_photo

__all__ = ["clip_es_photo", "dense_crf"]

_MEAN_BGR = np.array([104.008, 116.669, 122.675], dtype=np.float32)
# The probability that stands for zero in the unary energies.
_LEAST_PROBABILITY = 1e-5


def dense_crf(
    photo: np.ndarray,
    probabilities: np.ndarray,
    *,
    iterations: int = 10,
    gaussian_sxy: float = 1,
    gaussian_compat: float = 3,
    bilateral_sxy: float = 67,
    bilateral_srgb: float = 3,
    bilateral_compat: float = 4,
) -> np.ndarray:
    """Sharpen probabilities along the edges of the photo by mean-field inference.

    Args:
        photo: (H, W, 3) uint8, in any order of channels.
        probabilities: (C, H, W) in [0, 1], background among them; they need not sum to 1.
        iterations: of mean-field inference.
        gaussian_sxy: standard deviation of the smoothness kernel, in pixels.
        gaussian_compat: weight of the smoothness kernel.
        bilateral_sxy: standard deviation of the appearance kernel in space, in pixels.
        bilateral_srgb: standard deviation of the appearance kernel in colour, in grey levels.
        bilateral_compat: weight of the appearance kernel.

    Returns:
        (C, H, W) float32, summing to 1 over C.

    Raises:
        ImportError: ``pydensecrf`` is not installed; the message says how to get it.
        TypeError: a photo that is not uint8, or probabilities that are not floating point.
        ValueError: shapes that do not fit, fewer than two classes, values outside [0, 1], a setting
            that is not above 0.

    Example:
        >>> photo = np.zeros((4, 6, 3), np.uint8)
        >>> probabilities = np.full((2, 4, 6), 0.5, np.float32)
        >>> dense_crf(photo, probabilities)[:, 0, 0]
        array([0.5, 0.5], dtype=float32)
    """
    check_photo(photo)
    _check_probabilities(probabilities, photo)
    check_count("iterations", iterations)
    check_positive("gaussian_sxy", gaussian_sxy)
    check_positive("gaussian_compat", gaussian_compat)
    check_positive("bilateral_sxy", bilateral_sxy)
    check_positive("bilateral_srgb", bilateral_srgb)
    check_positive("bilateral_compat", bilateral_compat)
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ImportError(
            "a dense CRF needs the package pydensecrf2 (import name pydensecrf), which is not"
            ' installed: pip install "vpl_plugin[crf]". It is built on your machine and needs a C++'
            " compiler and Python below 3.13"
        ) from error

    classes, height, width = probabilities.shape
    energies = -np.log(probabilities.clip(_LEAST_PROBABILITY, 1.0)).astype(np.float32)
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(energies.reshape(classes, -1)))
    field.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    field.addPairwiseBilateral(
        sxy=bilateral_sxy,
        srgb=bilateral_srgb,
        # A copy, as the binding refuses read-only arrays such as Pillow's.
        rgbim=np.array(photo, order="C"),
        compat=bilateral_compat,
    )
    return np.array(field.inference(iterations), dtype=np.float32).reshape(probabilities.shape)


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
        ValueError: wrong shape.

    Example:
        >>> clip_es_photo(np.array([[[0, 120, 255]]], np.uint8))
        array([[[150,   3, 134]]], dtype=uint8)
    """
    shifted = check_photo(photo)[..., ::-1].astype(np.float32) - _MEAN_BGR
    # By way of int32, as a float below zero has no defined uint8.
    return shifted.astype(np.int32).astype(np.uint8)


def _check_probabilities(probabilities: np.ndarray, photo: np.ndarray) -> None:
    if not isinstance(probabilities, np.ndarray) or probabilities.dtype.kind != "f":
        kind = getattr(probabilities, "dtype", type(probabilities).__name__)
        raise TypeError(f"probabilities must be a floating-point array; got {kind}")
    if (
        probabilities.ndim != 3
        or probabilities.shape[1:] != photo.shape[:2]
        or probabilities.shape[0] < 2
    ):
        raise ValueError(
            f"probabilities must have shape (C, {photo.shape[0]}, {photo.shape[1]}), that of the"
            f" photo, with C >= 2; got {probabilities.shape}"
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(
            "probabilities must lie in [0, 1]; got the range"
            f" [{probabilities.min():.4g}, {probabilities.max():.4g}]"
        )
