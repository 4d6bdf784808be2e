"""The permutohedral lattice: a Gaussian filter between points of a few dimensions."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.localization.crf.simplices import enclosing_simplices

__all__ = ["Lattice", "build_lattice", "filter_signal"]

# 2**64 divided by the golden ratio, as a signed number: spreads neighbouring keys (Knuth).
_SPREAD = -7046029254386353131
# Slots of the hash table per vertex; fewer leave more vertices to the slow way.
_SLOTS = 8


class Lattice(NamedTuple):
    """Vertices around P points, of M that occur at all; vertex M is a place that holds zero.

    Attributes:
        vertices: (d + 1, P) int64, those of each point's simplex.
        weights: (d + 1, P) float32, what each point gives to and takes from its vertices: its
            barycentric coordinates as built, which a kernel scales per point.
        neighbours: (d + 1, 2, M + 1) int32, each vertex's two along each axis; M for none.
    """

    vertices: Tensor
    weights: Tensor
    neighbours: Tensor


def build_lattice(points: Tensor, groups: int = 1) -> Lattice:
    """Builds the lattice of points.

    Args:
        points: (d, P) float32, in units of the kernel's standard deviation.
        groups: P is that many equal runs of points that do not see one another.

    Returns:
        The lattice, on the points' device.

    Raises:
        InputError: the points spread over more vertices than 63 bits can number.

    Example:
        >>> build_lattice(torch.zeros(2, 5)).vertices.T.unique(dim=0)
        tensor([[0, 1, 2]])
    """
    keys, weights, steps = enclosing_simplices(points, groups)
    vertices = torch.empty_like(keys)
    colours: list[Tensor] = []
    count = 0
    for row, of_points in zip(keys, vertices, strict=True):
        ordered, order = row.sort()
        new = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=new[1:])
        of_points.scatter_(0, order, new.cumsum(0).add_(count - 1))
        colours.append(ordered.masked_select(new))
        count += len(colours[-1])
    return Lattice(vertices, weights, _neighbours(colours, steps))


def filter_signal(lattice: Lattice, signal: Tensor) -> Tensor:
    """Splats a signal onto the lattice, blurs it along each axis by (1/2, 1, 1/2), and slices it.

    Args:
        lattice: of P points.
        signal: (P,) of the dtype of the lattice's weights: float32, or complex64 to filter two
            signals for little more than the price of one, as the filter is real and linear, so the
            two parts never mix.

    Returns:
        (P,), not normalised.
    """
    vertices, weights, neighbours = lattice
    values = signal.new_zeros(neighbours.shape[-1])
    values.scatter_add_(0, vertices.view(-1), (weights * signal).view(-1))
    for before, after in neighbours:
        around = values.index_select(0, before)
        around += values.index_select(0, after)
        values.add_(around, alpha=0.5)
    result = values.index_select(0, vertices[0]).mul_(weights[0])
    for of_points, weight in zip(vertices[1:], weights[1:], strict=True):
        result.addcmul_(values.index_select(0, of_points), weight)
    return result


def _neighbours(colours: list[Tensor], steps: Tensor) -> Tensor:
    """Of each vertex along each axis, from the sorted keys of each colour.

    The neighbour after a vertex along axis j is one up in every coordinate and d + 1 down in
    coordinate j: of the next colour, a step of j below. Past the last colour every quotient rises.
    """
    axes, device = len(steps), steps.device
    starts = [0, *accumulate(len(keys) for keys in colours)]
    count = starts[-1]
    neighbours = torch.empty((axes, 2, count + 1), dtype=torch.int32, device=device)
    neighbours[:, 1, count] = count
    for colour, keys in enumerate(colours):
        following = (colour + 1) % axes
        shift = -steps if following else steps.sum() - steps
        places = _places(colours[following], keys, shift).add_(starts[following])
        # A vertex that is not there has the first number past its colour's.
        places.masked_fill_(places == starts[following + 1], count)
        neighbours[:, 1, starts[colour] : starts[colour + 1]] = places
    # Whatever follows a vertex is preceded by it.
    after = neighbours[:, 1].long()
    own = torch.arange(count + 1, dtype=torch.int32, device=device).expand(axes, -1)
    before = torch.full_like(own, count).contiguous().scatter_(1, after, own)
    before[:, count] = count
    neighbours[:, 0] = before
    return neighbours


def _places(keys: Tensor, wanted: Tensor, shifts: Tensor) -> Tensor:
    """(S, W) int64: where among sorted ``keys`` each ``wanted + shift`` is, or their number.

    By a hash table in which the last of several keys in a slot stays. The few that lost their slot
    are found from the other side, by a search for ``key - shift`` among the sorted ``wanted``.
    """
    size = 1 << max(_SLOTS * len(keys) - 1, 1).bit_length()
    numbers = torch.arange(len(keys), device=keys.device)
    slots = _hash(keys, size)
    table = torch.zeros(size, dtype=torch.int64, device=keys.device).scatter_(0, slots, numbers)
    lost = (table.index_select(0, slots) != numbers).nonzero().squeeze(1)

    sought = (wanted + shifts[:, None]).view(-1)
    places = table.index_select(0, _hash(sought, size))
    places.masked_fill_(keys.index_select(0, places) != sought, len(keys))
    places = places.view(len(shifts), -1)
    sought = keys.index_select(0, lost) - shifts[:, None]
    at = torch.searchsorted(wanted, sought).clamp_(max=len(wanted) - 1)
    row, column = (wanted.index_select(0, at.view(-1)).view_as(at) == sought).nonzero().unbind(1)
    places[row, at[row, column]] = lost[column]
    return places


def _hash(keys: Tensor, size: int) -> Tensor:
    """Slots in [0, size), a power of two: the top bits of a product that wraps around."""
    bits = size.bit_length() - 1
    return ((keys * _SPREAD) >> (64 - bits)).bitwise_and_(size - 1)
