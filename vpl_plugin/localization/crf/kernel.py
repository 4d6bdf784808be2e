"""Gaussian kernels between pixels, normalised; the spatial one is kept between photos of a size."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.localization.crf.lattice import Lattice, build_lattice, filter_signal

__all__ = ["Kernel", "apply_kernel", "bilateral_kernel", "build_kernel", "spatial_kernel"]

# Spatial kernels kept take at most so much; one of 500 x 375 pixels takes 17 MB.
CACHE_BYTES = 256 * 2**20


class Kernel(NamedTuple):
    """A kernel between P pixels, weighted and normalised symmetrically.

    Attributes:
        single: the lattice of the pixels' features; its weights are scaled by each pixel's norm and
            the root of the kernel's weight, so that splat and slice apply the whole of both.
        pairs: the same for complex signals, two real ones in one.
    """

    single: Lattice
    pairs: Lattice

    @property
    def nbytes(self) -> int:
        """Memory the kernel takes; the two lattices share all but their weights."""
        return sum(part.nbytes for part in (*self.single, self.pairs.weights))


def build_kernel(points: Tensor, weight: float, groups: int = 1) -> Kernel:
    """The kernel w N^(-1/2) K N^(-1/2), where K is the Gaussian and N its sums of rows.

    Args:
        points: (d, P) float32, features in units of the kernel's standard deviation.
        weight: w, above 0.
        groups: P is that many equal runs of pixels, one for each photo.

    Returns:
        The kernel, on the points' device.

    Raises:
        InputError: the points spread over more vertices than 63 bits can number.
    """
    lattice = build_lattice(points, groups)
    # The blur passes on a little more than it gets.
    gain = 1 / (1 + 2.0 ** -len(points))
    sums = filter_signal(lattice, points.new_ones(points.shape[1])).mul_(gain)
    scales = sums.add_(1e-20).rsqrt_().mul_(math.sqrt(gain * weight))
    single = lattice._replace(weights=lattice.weights * scales)
    return Kernel(single, single._replace(weights=single.weights.to(torch.complex64)))


def apply_kernel(kernel: Kernel, signal: Tensor) -> Tensor:
    """(P,) float32, or complex64 for two signals in one, to the same."""
    return filter_signal(kernel.pairs if signal.is_complex() else kernel.single, signal)


def bilateral_kernel(photos: Tensor, sxy: float, srgb: float, weight: float) -> Kernel:
    """The appearance kernel of (B, H, W, 3) uint8 photos, over place and colour."""
    count, height, width, _ = photos.shape
    places = _places(height, width, photos.device).div_(sxy).repeat(1, count)
    colours = photos.reshape(-1, 3).T.float().div_(srgb)
    return build_kernel(torch.cat([places, colours]), weight, groups=count)


def spatial_kernel(
    count: int, size: tuple[int, int], sxy: float, weight: float, device: torch.device
) -> Kernel:
    """The smoothness kernel of so many photos of a size, kept for the next ones of that size."""
    key = (count, size, sxy, weight, device)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    places = _places(*size, device).div_(sxy).repeat(1, count)
    kernel = build_kernel(places, weight, groups=count)
    with _lock:
        _kept[key] = kernel
        while sum(kept.nbytes for kept in _kept.values()) > CACHE_BYTES:
            _kept.popitem(last=False)
    return kernel


_kept: OrderedDict[tuple[object, ...], Kernel] = OrderedDict()
_lock = threading.Lock()


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """(2, H * W) float32: x and y of each pixel."""
    x = torch.arange(width, dtype=torch.float32, device=device).expand(height, width)
    y = torch.arange(height, dtype=torch.float32, device=device)[:, None].expand(height, width)
    return torch.stack([x.reshape(-1), y.reshape(-1)])
