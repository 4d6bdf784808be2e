"""Class-aware attention affinity: CAMs spread along CLIP's own attention, as in CLIP-ES."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from vpl_plugin.checks import check_cams, check_count, check_fraction, describe
from vpl_plugin.errors import InputError
from vpl_plugin.localization.normalization import min_max

__all__ = ["box_masks", "mean_attention", "refine_cams", "transition_matrix"]

# Neighbours within a map, diagonals included; none across maps of a stack.
_EIGHT_CONNECTED = np.zeros((3, 3, 3), dtype=bool)
_EIGHT_CONNECTED[1] = True


def mean_attention(earlier: Tensor, last: Tensor) -> Tensor:
    """The mean attention over blocks, the last one included.

    CLIP-ES takes the last 8 blocks: 7 earlier ones and the last.

    Args:
        earlier: (B, blocks, P, P), ``VisionTokens.attention``.
        last: (B, P, P), ``GradCAMOutput.attention``.

    Returns:
        (B, P, P), in the dtype of ``last``.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> mean_attention(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2))
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    if last.ndim != 3 or earlier.ndim != 4 or earlier.shape[2:] != last.shape[1:]:
        raise InputError(
            "earlier must have shape (B, blocks, P, P) and last (B, P, P);"
            f" got {describe(earlier)} and {describe(last)}"
        )
    if earlier.shape[0] != last.shape[0]:
        raise InputError(
            f"earlier and last must hold the same photos; got {earlier.shape[0]}"
            f" and {last.shape[0]}"
        )
    return (earlier.sum(dim=1, dtype=last.dtype) + last) / (earlier.shape[1] + 1)


def transition_matrix(attention: Tensor, rounds: int = 3) -> Tensor:
    r"""Attention made symmetric and nearly doubly stochastic by Sinkhorn's rounds.

    Each round divides by the column sums, then by the row sums. That only ever scales rows and
    columns, so the rounds run on two vectors, :math:`S = \mathrm{diag}(r) A \mathrm{diag}(c)`, and
    the matrix is read but not rewritten. The result is :math:`(S + S^\top) / 2`.

    Args:
        attention: (..., P, P), positive; float16 and bfloat16 are computed in float32.
        rounds: of Sinkhorn; CLIP-ES runs 3.

    Returns:
        (..., P, P), symmetric.

    Raises:
        TypeError: not floating point.
        InputError: not square, or ``rounds`` below 1.

    Example:
        >>> transition_matrix(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
        tensor([[0.2500, 0.7500],
                [0.7500, 0.2500]])
    """
    if not attention.is_floating_point():
        raise TypeError(f"attention must be floating point; got {describe(attention)}")
    if attention.ndim < 2 or attention.shape[-1] != attention.shape[-2]:
        raise InputError(f"attention must have shape (..., P, P); got {describe(attention)}")
    check_count("rounds", rounds)
    attention = attention.to(torch.promote_types(attention.dtype, torch.float32))
    row = attention.new_ones((*attention.shape[:-1], 1))
    for _ in range(rounds):
        column = 1 / (attention.mT @ row)
        row = 1 / (attention @ column)
    scaled = row * attention * column.mT
    return (scaled + scaled.mT) / 2


def box_masks(cams: Tensor, threshold: float = 0.4) -> Tensor:
    """The union of the bounding boxes of each map's salient regions, as in CLIP-ES.

    A map is quantised to 8 bits, and the pixels above ``threshold`` times its maximum form
    8-connected regions. As upstream, a box that touches the right or the bottom edge stops one
    pixel short of it.

    The maps are labelled by SciPy: tensors on another device are copied to the CPU once, which
    waits for that device. They are small (one value a patch).

    Args:
        cams: (..., K, h, w), values in [0, 1].
        threshold: share of the map's maximum, in [0, 1].

    Returns:
        (..., K, h, w) bool, on the device of ``cams``; all False for a map without a salient pixel.

    Raises:
        TypeError: not floating point.
        InputError: wrong rank, values outside [0, 1], a threshold outside [0, 1].

    Example:
        >>> cam = torch.zeros(1, 4, 5)
        >>> cam[0, 0, 0] = cam[0, 1, 1] = 1.0
        >>> box_masks(cam).int()[0]
        tensor([[1, 1, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    check_cams(cams)
    check_fraction("threshold", threshold)
    host = cams.detach().float().cpu().numpy()
    if not (host.min() >= 0 and host.max() <= 1):
        raise InputError(
            f"cams must lie in [0, 1]; got the range [{host.min():.4g}, {host.max():.4g}]"
        )
    height, width = host.shape[-2:]
    levels = (host.reshape(-1, height, width) * 255).astype(np.uint8)
    cut = (threshold * levels.max(axis=(1, 2), keepdims=True)).astype(np.uint8)
    regions, _ = ndimage.label(levels > cut, structure=_EIGHT_CONNECTED)
    masks = np.zeros(levels.shape, dtype=bool)
    for index, rows, columns in ndimage.find_objects(regions):
        bottom, right = min(rows.stop, height - 1), min(columns.stop, width - 1)
        masks[index, rows.start : bottom, columns.start : right] = True
    return torch.from_numpy(masks).view(cams.shape).to(cams.device)


def refine_cams(
    cams: Tensor, attention: Tensor, *, threshold: float = 0.4, rounds: int = 3
) -> Tensor:
    r"""Spread CAMs along the attention (CLIP-ES's class-aware attention affinity).

    With S the transition matrix and b the box mask of a map m, the refined map is
    :math:`S^2 (b \odot m)`, min-max normalised. It is computed as :math:`S (S (b \odot m))`, which
    costs :math:`P^2 K` where squaring the matrix costs :math:`P^3`, and in float64: where the
    attention is nearly uniform the spread map is nearly flat, and min-max would magnify the
    rounding of float32 to percents.

    Args:
        cams: (K, h, w) of one photo or (B, K, h, w), values in [0, 1]; maps of zeros stay zeros.
        attention: (h * w, h * w) or (B, h * w, h * w), such as ``mean_attention`` gives.
        threshold: of :func:`box_masks`.
        rounds: of :func:`transition_matrix`.

    Returns:
        Maps in [0, 1], of the shape and dtype of ``cams``.

    Raises:
        TypeError: not floating point.
        InputError: shapes that do not fit, values of ``cams`` outside [0, 1].

    Example:
        >>> cams = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> refine_cams(cams, torch.full((4, 4), 0.25) + torch.eye(4)).round(decimals=3)
        tensor([[[1., 0.],
                 [0., 0.]]])
    """
    check_cams(cams)
    patches = cams.shape[-2] * cams.shape[-1]
    expected = (*cams.shape[:-3], patches, patches)
    if attention.shape != expected:
        raise InputError(
            f"attention must have shape {expected} to go with cams of shape {tuple(cams.shape)};"
            f" got {describe(attention)}"
        )
    transition = transition_matrix(attention.double(), rounds)
    boxed = (cams * box_masks(cams, threshold)).flatten(-2).double()
    # S is symmetric, so rows times S are S times columns.
    spread = boxed @ transition @ transition
    return min_max(spread.unflatten(-1, cams.shape[-2:])).to(cams.dtype)
