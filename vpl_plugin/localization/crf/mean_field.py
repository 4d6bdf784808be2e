"""Mean-field inference of a dense CRF in torch operations, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.localization.crf.kernel import (
    Kernel,
    apply_kernel,
    bilateral_kernel,
    spatial_kernel,
)
from vpl_plugin.localization.crf.one_thread import one_thread

__all__ = ["LEAST_PROBABILITY", "CRFSettings", "mean_field"]

# The probability that stands for zero in the unary energies.
LEAST_PROBABILITY = 1e-5
# Photos share a lattice on a GPU up to so many pixels, which take about 1.5 GB.
_PIXELS_AT_ONCE = 2**22


class CRFSettings(NamedTuple):
    """See :func:`~vpl_plugin.localization.dense_crf`; the defaults are CLIP-ES's."""

    iterations: int = 10
    gaussian_sxy: float = 1
    gaussian_compat: float = 3
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_compat: float = 4


def mean_field(
    photos: Tensor, probabilities: Tensor, settings: CRFSettings | None = None
) -> Tensor:
    """Sharpens the probabilities of a batch of photos along their edges.

    Krähenbühl and Koltun (2011), Algorithm 1, with Potts compatibilities: from Q = softmax(-U),

        Q <- softmax(-U + sum_k w_k K_k Q),   K_k normalised symmetrically.

    Q - 1 / C gives the same result, as softmax does not see what all maps share, and sums to 0 over
    the classes: the last map's message is the negative of the others', so it is never filtered.

    Args:
        photos: (B, H, W, 3) uint8.
        probabilities: (B, C, H, W) floating point in [0, 1], C >= 2, on the photos' device.
        settings: of the field.

    Returns:
        (B, C, H, W) float32, summing to 1 over C. On a CPU a photo gets the same bits each time, in
        any batch, and works in the calling thread alone. On CUDA sums are formed in any order, so
        the last bits vary unless ``torch.use_deterministic_algorithms(True)`` is set.

    Example:
        >>> photos = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
        >>> mean_field(photos, torch.full((1, 2, 4, 6), 0.5))[0, :, 0, 0]
        tensor([0.5000, 0.5000])
    """
    settings = settings or CRFSettings()
    height, width = photos.shape[1:3]
    on_cpu = photos.device.type == "cpu"
    # One photo is enough for a CPU's cache; it takes several to fill a GPU.
    at_once = 1 if on_cpu else max(1, _PIXELS_AT_ONCE // (height * width))
    parts = zip(photos.split(at_once), probabilities.split(at_once), strict=True)
    with one_thread() if on_cpu else nullcontext():
        return torch.cat([_infer(*part, settings) for part in parts])


def _infer(photos: Tensor, probabilities: Tensor, settings: CRFSettings) -> Tensor:
    """One lattice for all photos."""
    count, height, width, _ = photos.shape
    kernels = [
        spatial_kernel(
            count,
            (height, width),
            settings.gaussian_sxy,
            settings.gaussian_compat,
            photos.device,
        ),
        bilateral_kernel(
            photos, settings.bilateral_sxy, settings.bilateral_srgb, settings.bilateral_compat
        ),
    ]
    # (C, B * H * W)
    scores = probabilities.float().clamp(min=LEAST_PROBABILITY).log_().transpose(0, 1).flatten(1)
    beliefs = scores.softmax(dim=0)
    for _ in range(settings.iterations):
        beliefs = _add_messages(scores, beliefs, kernels).softmax(dim=0)
    return beliefs.view(-1, count, height, width).transpose(0, 1)


def _add_messages(scores: Tensor, beliefs: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """The scores, (C, P), with what the kernels make of the beliefs."""
    result = scores.clone()
    sent = beliefs[:-1] - 1 / len(beliefs)
    for first in range(0, len(sent), 2):
        pair = sent[first : first + 2]
        signal = torch.complex(*pair) if len(pair) == 2 else pair[0]
        for kernel in kernels:
            message = apply_kernel(kernel, signal)
            parts = (message.real, message.imag) if message.is_complex() else (message,)
            for index, part in enumerate(parts, start=first):
                result[index] += part
                result[-1] -= part
    return result
