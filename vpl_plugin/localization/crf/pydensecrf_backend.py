"""Mean-field inference by the package pydensecrf2, the reference that CLIP-ES uses."""

from __future__ import annotations

import numpy as np

from vpl_plugin.localization.crf.mean_field import LEAST_PROBABILITY, CRFSettings

__all__ = ["pydensecrf_inference"]


def pydensecrf_inference(
    photo: np.ndarray, probabilities: np.ndarray, settings: CRFSettings
) -> np.ndarray:
    """Sharpens the probabilities of one photo.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (C, H, W) floating point in [0, 1].
        settings: of the field.

    Returns:
        (C, H, W) float32.

    Raises:
        ImportError: the package is not installed; the message says how to get it.
    """
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ImportError(
            "the CRF's backend pydensecrf needs the package pydensecrf2 (import name pydensecrf),"
            ' which is not installed: pip install "vpl_plugin[crf]". It is built on your machine'
            " and needs a C++ compiler and Python below 3.13; the backend torch needs neither"
        ) from error

    classes, height, width = probabilities.shape
    energies = -np.log(probabilities.clip(LEAST_PROBABILITY, 1.0)).astype(np.float32)
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(energies.reshape(classes, -1)))
    field.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        # A copy, as the binding refuses read-only arrays such as Pillow's.
        rgbim=np.array(photo, order="C"),
        compat=settings.bilateral_compat,
    )
    result = np.array(field.inference(settings.iterations), dtype=np.float32)
    return result.reshape(probabilities.shape)
