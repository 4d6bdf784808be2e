"""Maps to another size, as products with one matrix an axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bilinear_matrix", "resize_maps"]


def bilinear_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix (new, old) that resizes one axis as F.interpolate does, align_corners=False."""
    unit = torch.eye(old, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], size=new, mode="linear", align_corners=False)[0].T


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of maps, align_corners=False.

    The result is F.interpolate's to rounding; as products it takes less time, on the way back
    above all, and its gradient is deterministic on a GPU, where F.interpolate's is not.

    Args:
        maps: (..., h, w), floating point.
        size: (H, W).

    Returns:
        (..., H, W).

    Example:
        >>> resize_maps(torch.tensor([[0.0, 4.0]]), (1, 4))
        tensor([[0., 1., 3., 4.]])
    """
    down = bilinear_matrix(maps.shape[-2], size[0], maps)
    across = bilinear_matrix(maps.shape[-1], size[1], maps)
    return down @ maps @ across.T
