"""How compact the regions of a class are, and how far classes lie apart: Fig. 4 as numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import check_matrix, check_rows, describe
from vpl_plugin.errors import InputError

__all__ = ["Compactness", "compactness"]


class Compactness(NamedTuple):
    """Cosine distances between region embeddings.

    Attributes:
        intra: mean distance of a region to the centroid of its class, each class counting alike;
            in [0, 2], small where classes are compact. Classes of one region do not count.
        inter: mean distance between the centroids of two classes; in [0, 2], large where classes
            lie apart.
        ratio: intra / inter: the smaller, the better classes are told apart.
        silhouette: mean over the regions of (b - a) / max(a, b), with a the mean distance to the
            other regions of the class and b that to the nearest other class; in [-1, 1], the larger
            the better. A class's only region counts 0 (Rousseeuw, 1987).
        regions: how many there are.
        classes: how many classes they are of.
    """

    intra: float
    inter: float
    ratio: float
    silhouette: float
    regions: int
    classes: int


def compactness(embeddings: Tensor, labels: Tensor, *, centred: bool = False) -> Compactness:
    r"""Intra-class and inter-class distances of region embeddings.

    With unit embeddings :math:`u_r` and centroids :math:`c_n`, the unit mean of class n:

    .. math:: intra = \frac{1}{N'} \sum_n \frac{1}{R_n} \sum_{r \in n} (1 - u_r^\top c_n), \quad
        inter = \frac{1}{N (N - 1)} \sum_{n \neq m} (1 - c_n^\top c_m)

    The paper shows this claim as a t-SNE picture (Fig. 4) only; the figures are this package's.

    What all embeddings share makes every distance small, and less of it every distance larger:
    ``centred`` takes it out, so that trainings compare which differ in it.

    Args:
        embeddings: (R, D), one row a region, of any length but 0.
        labels: (R,) integers, the class of each region; at least two classes, and one of them with
            two regions or more.
        centred: of the embeddings less their mean, each class counting alike in it.

    Returns:
        The distances, computed in float64.

    Raises:
        TypeError: embeddings are not floating point, or labels no integers.
        InputError: shapes that do not fit, rows of zeros or not finite, too few regions.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> found = compactness(embeddings, torch.tensor([0, 0, 5, 5]))
        >>> found.intra, found.inter, found.silhouette
        (0.0, 1.0, 1.0)
    """
    rows = check_matrix("embeddings", embeddings)
    check_rows("embeddings", rows)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers; got {describe(labels)}")
    if labels.shape != rows.shape[:1]:
        raise InputError(
            f"labels must have shape ({len(rows)},), one for each embedding; got {describe(labels)}"
        )
    values = rows.double()
    present, index = labels.unique(return_inverse=True)
    member = F.one_hot(index, len(present)).double()
    counts = member.sum(dim=0)
    if len(present) < 2 or counts.max() < 2:
        raise InputError(
            "labels must name two classes or more, and one of them twice; got"
            f" {len(rows)} region(s) of {len(present)} class(es)"
        )
    if centred:
        values = values - (member.T @ values / counts[:, None]).mean(dim=0)
    units = F.normalize(values, dim=1)
    centroids = F.normalize(member.T @ units, dim=1)
    to_own = 1 - (units * centroids[index]).sum(dim=1)
    spread = (member.T @ to_own / counts)[counts > 1]
    apart = 1 - centroids @ centroids.T
    off_diagonal = ~torch.eye(len(present), dtype=torch.bool, device=apart.device)
    intra, inter = float(spread.mean()), float(apart[off_diagonal].mean())
    return Compactness(
        intra=intra,
        inter=inter,
        ratio=intra / inter if inter else float("inf"),
        silhouette=float(_silhouettes(units, index, member).mean()),
        regions=len(rows),
        classes=len(present),
    )


def _silhouettes(units: Tensor, index: Tensor, member: Tensor) -> Tensor:
    """The silhouette of each region by cosine distance."""
    distances = 1 - units @ units.T
    # Rounding must not leave a region at a distance from itself.
    distances.fill_diagonal_(0)
    sums, counts = distances @ member, member.sum(dim=0)
    own = index[:, None]
    alone = counts[index] == 1
    a = sums.gather(1, own)[:, 0] / (counts[index] - 1).clamp_min(1)
    b = (sums / counts).scatter(1, own, torch.inf).amin(dim=1)
    largest = torch.maximum(a, b)
    return ((b - a) / largest.masked_fill(largest == 0, 1)).masked_fill(alone, 0)
