"""Context prototypes: seeded spherical k-means of the support bank.

From the paper: k-means of the bank, class by class. Ours: cosine instead of Euclidean distance (the
vectors are directions), k-means++ seeding, and fewer prototypes where a class has fewer vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.constants import CLUSTERS, KMEANS_ITERATIONS
from vpl_plugin.checks import check_count, check_matrix, check_rows

__all__ = ["context_prototypes"]

# Vectors whose similarities to all centres are in memory at once.
VECTORS_AT_ONCE = 65536


def context_prototypes(
    vectors: Tensor,
    clusters: int = CLUSTERS,
    *,
    iterations: int = KMEANS_ITERATIONS,
    seed: int = 0,
    chunk_size: int = VECTORS_AT_ONCE,
) -> Tensor:
    """Cluster centres of directions: the same input and seed give the same output to the bit.

    Beyond its input it needs memory for ``chunk_size`` vectors, and two numbers a vector.

    Args:
        vectors: (m, D), of one class; rows need no unit norm.
        clusters: k; a class of fewer vectors gets a prototype for each.
        iterations: the most rounds; it stops where no vector changes its cluster.
        seed: of k-means++.
        chunk_size: vectors compared with the centres at once.

    Returns:
        (min(k, m), D), unit rows.

    Raises:
        TypeError: vectors that are no floating-point tensor.
        ValueError: no vector, NaN, a row of zeros, a count below 1.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
        >>> context_prototypes(vectors, 2).round().sort(dim=0).values
        tensor([[0., 0.],
                [1., 1.]])
    """
    check_matrix("vectors", vectors)
    check_rows("vectors", vectors)
    for name, count in (
        ("clusters", clusters),
        ("iterations", iterations),
        ("chunk_size", chunk_size),
    ):
        check_count(name, count)
    directions = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    if len(directions) <= clusters:
        return F.normalize(directions, dim=1)
    # Lengths, rather than a normalised copy: a vector's nearest centre does not depend on its own.
    scales = 1 / directions.norm(dim=1)
    centres = _plus_plus(directions, scales, clusters, seed, chunk_size)
    assigned = None
    for _ in range(iterations):
        sums = torch.zeros_like(centres)
        nearest = []
        for part, scale in zip(directions.split(chunk_size), scales.split(chunk_size), strict=True):
            nearest.append((part @ centres.T).argmax(dim=1))
            # A product with the one-hot matrix sums in one order on every run; index_add_ on CUDA
            # does not.
            sums += (F.one_hot(nearest[-1], clusters) * scale[:, None]).T @ part
        now = torch.cat(nearest)
        if assigned is not None and torch.equal(now, assigned):
            break
        assigned = now
        # A cluster without vectors, or whose vectors cancel, keeps its centre.
        lengths = sums.norm(dim=1, keepdim=True)
        centres = torch.where(lengths > 0, F.normalize(sums, dim=1), centres)
    return centres


def _plus_plus(
    directions: Tensor, scales: Tensor, clusters: int, seed: int, chunk_size: int
) -> Tensor:
    """Starts at vectors drawn in proportion to their distance from those drawn before."""
    generator = torch.Generator().manual_seed(seed)
    distance = torch.ones(len(directions), dtype=torch.float64)
    chosen: list[Tensor] = []
    for _ in range(clusters):
        # Where all that is left are copies of those drawn, any will do.
        weights = distance if bool((distance > 0).any()) else torch.ones_like(distance)
        cumulated = weights.cumsum(0)
        ticket = torch.rand(1, generator=generator, dtype=torch.float64) * cumulated[-1]
        drawn = min(int(torch.searchsorted(cumulated, ticket, right=True)), len(directions) - 1)
        chosen.append(directions[drawn] * scales[drawn])
        cosines = torch.cat([part @ chosen[-1] for part in directions.split(chunk_size)])
        to_new = (1 - cosines * scales).double().cpu()
        # Rounding must not leave a vector at a distance from itself.
        distance = torch.minimum(distance, to_new.masked_fill(to_new < 1e-6, 0.0))
    return torch.stack(chosen)
