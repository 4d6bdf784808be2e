"""The modality gap between pixel features and class prototypes, measured and modified."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.checks import (
    check_assignments,
    check_features_and_prototypes,
    check_finite,
)
from vpl_plugin.core.constraints import compute_dtype, unit_rows

__all__ = ["ModifiedGap", "centroid_gap", "cosine_gap", "modify_gap"]


class ModifiedGap(NamedTuple):
    """Features and prototypes after :func:`modify_gap`.

    Attributes:
        features: (P, D), unit rows.
        prototypes: (N, D), unit rows.
    """

    features: Tensor
    prototypes: Tensor


@torch.no_grad()
def cosine_gap(
    features: Tensor,
    prototypes: Tensor,
    assignments: Tensor,
    *,
    ignore_index: int = 255,
    chunk_size: int = 16384,
) -> Tensor:
    r"""How far pixels are from the prototypes of their classes: the Gap of Tables 4 and 5.

    .. math:: 1 - \frac{1}{P} \sum_p \cos(x_p, w_{a_p})

    The VPL paper does not define its Gap; it says that it "measures the difference between various
    prototypes and features, with a lower gap indicating higher similarity". This is our reading,
    the one whose range fits the values printed there (0.47 to 0.81). It averages over pixels, so
    that frequent classes weigh more.

    Args:
        features: (P, D) pixel features; any float dtype, converted a chunk at a time.
        prototypes: (N, D), text or vision prototypes.
        assignments: (P,) integer classes in [0, N) of the pixels, or ignore_index.
        ignore_index: the index of pixels that do not count; no class's own.
        chunk_size: pixels taken at a time.

    Returns:
        0-d float64 in [0, 2]; 0 where every pixel points along its prototype.

    Raises:
        TypeError: features or prototypes are not floating point, or assignments not integer.
        InputError: shapes do not fit, devices differ, a row is not finite or zero, an assignment
            is no class, or no pixel counts.

    Example:
        >>> features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> cosine_gap(features, torch.eye(2), torch.tensor([0, 0, 255]))
        tensor(0.5000, dtype=torch.float64)
    """
    check_features_and_prototypes(features, prototypes, chunk_size)
    check_assignments(assignments, features, len(prototypes), ignore_index)
    dtype = compute_dtype(features, prototypes)
    W = unit_rows(prototypes.to(dtype))
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    chunks = zip(features.split(chunk_size), assignments.split(chunk_size), strict=True)
    pixels = torch.zeros((), dtype=torch.int64, device=features.device)
    for x, classes in chunks:
        indices = classes.long()
        counts = indices != ignore_index
        # An ignored pixel may stand at any class here: its cosine is dropped.
        anchors = W[indices.masked_fill(~counts, 0)]
        cosines = (unit_rows(x.to(dtype)) * anchors).sum(dim=1)
        total += cosines.masked_fill(~counts, 0).sum(dtype=torch.float64)
        pixels += counts.sum()
    return 1 - total / pixels


@torch.no_grad()
def centroid_gap(features: Tensor, prototypes: Tensor, *, chunk_size: int = 16384) -> Tensor:
    r"""Distance of the two modalities' centres on the unit sphere (Liang et al., NeurIPS 2022).

    .. math:: \Big\| \frac{1}{P} \sum_p \frac{x_p}{\|x_p\|}
              - \frac{1}{N} \sum_n \frac{w_n}{\|w_n\|} \Big\|_2

    Args:
        features: (P, D) pixel features.
        prototypes: (N, D), text or vision prototypes.
        chunk_size: pixels taken at a time.

    Returns:
        0-d float64 in [0, 2].

    Raises:
        TypeError: features or prototypes are not floating point.
        InputError: shapes do not fit, devices differ, or a row is not finite or zero.

    Example:
        >>> centroid_gap(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(1.4142, dtype=torch.float64)
    """
    check_features_and_prototypes(features, prototypes, chunk_size)
    return torch.linalg.vector_norm(_gap_vector(features, prototypes, chunk_size))


@torch.no_grad()
def modify_gap(
    features: Tensor, prototypes: Tensor, shift: float, *, chunk_size: int = 16384
) -> ModifiedGap:
    r"""Moves both modalities along the vector between their centres (Liang et al., NeurIPS 2022).

    The "Modify gap" baseline of Table 4 of the VPL paper. With g the difference of the centres of
    :func:`centroid_gap`,

    .. math:: x_p \leftarrow \mathrm{unit}(x_p - \tfrac{s}{2} g), \quad
              w_n \leftarrow \mathrm{unit}(w_n + \tfrac{s}{2} g).

    Args:
        features: (P, D) pixel features.
        prototypes: (N, D), text prototypes.
        shift: s. 0 leaves all in place; at 1 the centres would meet but for the last projection
            onto the sphere; below 0 the gap widens. Liang et al.'s released code counts absolute
            distance instead: its delta is s times :func:`centroid_gap`.
        chunk_size: pixels taken at a time.

    Returns:
        Both, unit rows, each of the dtype it came in.

    Raises:
        TypeError: features or prototypes are not floating point.
        InputError: shapes do not fit, devices differ, a row or the shift is not finite, or a row
            is zero.

    Example:
        >>> moved = modify_gap(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), shift=1.0)
        >>> moved.features, moved.prototypes
        (tensor([[0.7071, 0.7071]]), tensor([[0.7071, 0.7071]]))
    """
    check_finite("shift", shift)
    check_features_and_prototypes(features, prototypes, chunk_size)
    dtype = compute_dtype(features, prototypes)
    move = (shift / 2 * _gap_vector(features, prototypes, chunk_size)).to(dtype)
    moved = torch.empty_like(features)
    for x, out in zip(features.split(chunk_size), moved.split(chunk_size), strict=True):
        out.copy_(unit_rows(unit_rows(x.to(dtype)) - move))
    moved_prototypes = unit_rows(unit_rows(prototypes.to(dtype)) + move)
    return ModifiedGap(moved, moved_prototypes.to(prototypes.dtype))


def _gap_vector(features: Tensor, prototypes: Tensor, chunk_size: int) -> Tensor:
    return _mean_direction(features, chunk_size) - _mean_direction(prototypes, chunk_size)


def _mean_direction(rows: Tensor, chunk_size: int) -> Tensor:
    dtype = torch.promote_types(rows.dtype, torch.float32)
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in rows.split(chunk_size):
        total += unit_rows(chunk.to(dtype)).sum(dim=0, dtype=torch.float64)
    return total / len(rows)
