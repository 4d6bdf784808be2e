"""Dense CRF (Krähenbühl and Koltun, 2011) with the settings of CLIP-ES, by either backend."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Sequence

import numpy as np
import torch

from vpl_plugin.checks import check_choice, check_count, check_photo, check_positive
from vpl_plugin.errors import InputError
from vpl_plugin.localization.crf.mean_field import CRFSettings, mean_field
from vpl_plugin.localization.crf.pydensecrf_backend import pydensecrf_inference

__all__ = ["BACKENDS", "dense_crf", "reference_backend"]

# The first is the default: it is always there, and the faster (benchmarks/crf.py).
BACKENDS = ("torch", "pydensecrf")

logger = logging.getLogger(__name__)


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
    backend: str = BACKENDS[0],
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Sharpen probabilities along the edges of the photo by mean-field inference.

    Args:
        photo: (H, W, 3) uint8, in any order of channels; or (B, H, W, 3), photos of one size.
        probabilities: (C, H, W) in [0, 1], background among them; they need not sum to 1. Or
            (B, C, H, W).
        iterations: of mean-field inference.
        gaussian_sxy: standard deviation of the smoothness kernel, in pixels.
        gaussian_compat: weight of the smoothness kernel.
        bilateral_sxy: standard deviation of the appearance kernel in space, in pixels.
        bilateral_srgb: standard deviation of the appearance kernel in colour, in grey levels.
        bilateral_compat: weight of the appearance kernel.
        backend: "torch", or "pydensecrf", the package that CLIP-ES uses. They agree to 1e-3, by
            the rounding of float32 (see docs/localization.md).
        device: on which the backend torch works. A CPU gives the same bits each time; of CUDA see
            :func:`mean_field`.

    Returns:
        (C, H, W) or (B, C, H, W) float32, summing to 1 over C.

    Raises:
        ImportError: the backend ``pydensecrf`` is wanted and not installed; the message says how to
            get it.
        TypeError: a photo that is not uint8, or probabilities that are not floating point.
        InputError: shapes that do not fit, fewer than two classes, values outside [0, 1], a setting
            that is not above 0 or a standard deviation that is very small, an unknown backend, a
            device for a backend that takes none.

    Example:
        >>> photo = np.zeros((4, 6, 3), np.uint8)
        >>> probabilities = np.full((2, 4, 6), 0.5, np.float32)
        >>> dense_crf(photo, probabilities)[:, 0, 0]
        array([0.5, 0.5], dtype=float32)
    """
    settings = CRFSettings(
        iterations,
        gaussian_sxy,
        gaussian_compat,
        bilateral_sxy,
        bilateral_srgb,
        bilateral_compat,
    )
    batched = isinstance(photo, np.ndarray) and photo.ndim == 4
    photos = photo if batched else [photo]
    maps = _check(photos, probabilities, batched)
    _check_settings(settings, photos[0].shape)
    check_choice("backend", backend, BACKENDS)
    if backend != "torch" and torch.device(device).type != "cpu":
        raise InputError(f"the backend {backend} works on the cpu alone; got the device {device}")
    _log_once(backend, str(device))

    if backend == "pydensecrf":
        done = [
            pydensecrf_inference(one, of_one, settings)
            for one, of_one in zip(photos, maps, strict=True)
        ]
        return np.stack(done) if batched else done[0]
    # Copies, as torch takes neither read-only nor flipped arrays.
    result = mean_field(
        torch.from_numpy(np.array(photos)).to(device),
        torch.from_numpy(np.array(maps)).to(device),
        settings,
    )
    sharpened = result.cpu().contiguous().numpy()
    return sharpened if batched else sharpened[0]


def reference_backend() -> str:
    """The backend for upstream's own numbers: pydensecrf where it is installed, else torch.

    Returns:
        Its name.
    """
    return "pydensecrf" if importlib.util.find_spec("pydensecrf") else "torch"


@functools.cache
def _log_once(backend: str, device: str) -> None:
    logger.info("dense CRF: %s on %s", backend, device)


def _check(
    photos: np.ndarray | Sequence[np.ndarray], probabilities: object, batched: bool
) -> np.ndarray:
    """The probabilities as (B, C, H, W)."""
    if not len(photos):
        raise InputError("photo must hold at least one photo; got none")
    for photo in photos:
        check_photo(photo)
    height, width = photos[0].shape[:2]
    if not isinstance(probabilities, np.ndarray) or probabilities.dtype.kind != "f":
        kind = getattr(probabilities, "dtype", type(probabilities).__name__)
        raise TypeError(f"probabilities must be a floating-point array; got {kind}")
    count = (len(photos),) if batched else ()
    axes = len(count) + 3
    if (
        probabilities.ndim != axes
        or probabilities.shape[:-3] != count
        or probabilities.shape[-2:] != (height, width)
        or probabilities.shape[-3] < 2
    ):
        shape = ", ".join(map(str, (*count, "C", height, width)))
        raise InputError(
            f"probabilities must have shape ({shape}), that of the"
            f" photo, with C >= 2; got {probabilities.shape}"
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError(
            "probabilities must lie in [0, 1]; got the range"
            f" [{probabilities.min():.4g}, {probabilities.max():.4g}]"
        )
    return probabilities if batched else probabilities[None]


def _check_settings(settings: CRFSettings, shape: tuple[int, ...]) -> None:
    check_count("iterations", settings.iterations)
    for name, value in settings._asdict().items():
        check_positive(name, value)
    # Below these float32 no longer tells places on the lattice apart, nor 63 bits its vertices.
    side = max(shape[:2])
    for name, extent, most in (
        ("gaussian_sxy", side, 2**16),
        ("bilateral_sxy", side, 2**11),
        ("bilateral_srgb", 255, 2**11),
    ):
        value = getattr(settings, name)
        if value < extent / most:
            raise InputError(
                f"{name} must be at least {extent / most:.3g} for a photo of {shape[0]} x"
                f" {shape[1]} pixels; got {value!r}"
            )
