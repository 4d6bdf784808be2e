"""Points to the simplices of the permutohedral lattice that hold them (Adams et al., 2010)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.errors import InputError

__all__ = ["Simplices", "enclosing_simplices"]


class Simplices(NamedTuple):
    """The d + 1 vertices of the simplex around each of P points.

    A vertex of colour r has coordinates that all leave the remainder r when divided by d + 1; each
    simplex has one vertex of each colour. Its key numbers the quotients in mixed radix, so a step
    of one quotient is a fixed step of the key.

    Attributes:
        keys: (d + 1, P) int64, row r for the vertices of colour r; equal in a row, one vertex.
        weights: (d + 1, P) float32, barycentric coordinates, which sum to 1.
        steps: (d + 1,) int64, what one step of each coordinate's quotient adds to a key; the last
            coordinate follows from the others, so its step is 0.
    """

    keys: Tensor
    weights: Tensor
    steps: Tensor


def enclosing_simplices(points: Tensor, groups: int = 1) -> Simplices:
    """Finds the simplex of each point and the point's barycentric coordinates in it.

    Args:
        points: (d, P) float32, in units of the kernel's standard deviation.
        groups: P is that many equal runs of points whose keys must differ.

    Returns:
        The simplices.

    Raises:
        InputError: the points spread over more vertices than 63 bits can number.
    """
    d, count = points.shape
    elevated = _elevate(points)
    # The nearest vertex of colour 0, coordinate by coordinate.
    cells = (elevated * (1 / (d + 1))).round_()
    # Off the plane by as many cells; the coordinates rounded the furthest take them back.
    excess = cells.sum(dim=0).to(torch.int8)
    nearest = cells.mul_(d + 1)
    ranks = _descending_ranks(elevated - nearest).add_(excess)
    back = (ranks < 0).to(torch.int8).sub_((ranks > d).to(torch.int8)).mul_(d + 1)
    nearest += back
    ranks = (ranks + back).long()

    offsets = elevated.sub_(nearest).mul_(1 / (d + 1))
    ordered = torch.empty_like(offsets).scatter_(0, ranks, offsets)
    weights = torch.empty_like(offsets)
    weights[0] = ordered[d] - ordered[0] + 1
    for colour in range(1, d + 1):
        torch.sub(ordered[d - colour], ordered[d - colour + 1], out=weights[colour])

    quotients = nearest[:d].mul_(1 / (d + 1)).round_().long()
    first, steps, span = _numbering(quotients, groups)
    keys = torch.empty((d + 1, count), dtype=torch.int64, device=points.device)
    torch.sum((quotients - first) * steps[:d, None], dim=0, out=keys[0])
    if groups > 1:
        keys[0].view(groups, -1).add_(torch.arange(groups, device=points.device)[:, None] * span)
    # From each vertex to the next the coordinate of the largest rank left falls by a cell.
    falls = torch.empty_like(keys).scatter_(0, ranks, steps[:, None].expand(d + 1, count))
    for colour in range(1, d + 1):
        torch.sub(keys[colour - 1], falls[d - colour + 1], out=keys[colour])
    return Simplices(keys, weights, steps)


def _elevate(points: Tensor) -> Tensor:
    """Onto the plane of d + 1 coordinates that sum to 0, scaled to the blur's unit variance."""
    # Points on the border of simplices are common, as pixels and colours are whole numbers; there
    # the last bit of a coordinate decides which vertices exist. So each step rounds as pydensecrf
    # does, without the fused operation of torch.sub(..., alpha=...).
    d, count = points.shape
    elevated = points.new_empty(d + 1, count)
    total = points.new_zeros(count)
    deviation = float(torch.tensor(math.sqrt(2 / 3) * (d + 1), dtype=torch.float32))
    for axis in range(d, 0, -1):
        part = points[axis - 1] * (deviation / math.sqrt(axis * (axis + 1)))
        torch.sub(total, part * axis, out=elevated[axis])
        total += part
    elevated[0] = total
    return elevated


def _descending_ranks(values: Tensor) -> Tensor:
    """(n, P) int8: how many of its column are larger, or equal and further up. No sort of n."""
    ranks = torch.zeros(values.shape, dtype=torch.int8, device=values.device)
    for i in range(len(values) - 1):
        for j in range(i + 1, len(values)):
            smaller = values[i] < values[j]
            ranks[i] += smaller
            ranks[j] += smaller.logical_not_()
    return ranks


def _numbering(quotients: Tensor, groups: int) -> tuple[Tensor, Tensor, int]:
    """The least quotients, the steps of the key, and the keys that a group spans."""
    # Vertices reach one below, neighbours another one on either side.
    first, last = quotients.amin(dim=1) - 2, quotients.amax(dim=1) + 1
    steps, span = [0], 1
    for size in (last - first + 1).tolist()[::-1]:
        steps.insert(0, span)
        span *= size
    if span * groups >= 2**63:
        raise InputError(
            f"the points spread over {span:.1e} vertices, more than 63 bits can number: take larger"
            " standard deviations"
        )
    return first[:, None], torch.tensor(steps, device=quotients.device), span
