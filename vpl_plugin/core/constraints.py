"""The sets that constrain the prototypes: the unit sphere and the norm ball."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vpl_plugin.core.checks import LEAST_NORM

__all__ = ["CONSTRAINTS", "Ball", "Constraint", "Sphere", "unit_rows"]

# Directions of the features with less than this share of the largest variance count as having it,
# so that the inverse of the metric is well conditioned.
METRIC_RIDGE = 0.01


def unit_rows(matrix: Tensor) -> Tensor:
    """Each row scaled to norm 1.

    Args:
        matrix: (N, D), no row zero.

    Returns:
        (N, D).

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    return torch.nn.functional.normalize(matrix, dim=1, eps=LEAST_NORM)


class Constraint(Protocol):
    """A set the rows of W stay on, and the geometry a solver needs there."""

    def project(self, W: Tensor) -> Tensor:
        """The nearest point of the set, row by row."""
        ...

    def inverse_metric(self, second_moment: Tensor) -> Tensor:
        """The (D, D) matrix that turns a gradient into a well-conditioned direction."""
        ...

    def direction(self, W: Tensor, gradient: Tensor, inverse_metric: Tensor) -> Tensor:
        """The direction of steepest ascent at W in that metric."""
        ...

    def tangent(self, W: Tensor, gradient: Tensor) -> Tensor:
        """The part of the gradient along which W can move."""
        ...

    def residual(self, W: Tensor, gradient: Tensor) -> Tensor:
        """How far W is from a stationary point: 0-d, zero at one."""
        ...


class Sphere:
    """Unit rows: CLIP's embeddings lie there (Theorem 1 of the VPL paper).

    Example:
        >>> Sphere().project(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def project(self, W: Tensor) -> Tensor:
        """The nearest point of the unit sphere, row by row."""
        return unit_rows(W)

    def inverse_metric(self, second_moment: Tensor) -> Tensor:
        """The inverse of the features' second moment, ridged.

        Pixel features lie in a narrow cone, so that the curvature along their mean exceeds that
        along the rest a hundredfold; in this metric it is about even.
        """
        eigenvalues, vectors = torch.linalg.eigh(second_moment)
        scale = eigenvalues[-1] / (eigenvalues + METRIC_RIDGE * eigenvalues[-1])
        return (vectors * scale) @ vectors.T

    def direction(self, W: Tensor, gradient: Tensor, inverse_metric: Tensor) -> Tensor:
        """The Riemannian gradient: the steepest tangent direction in the metric."""
        steepest = gradient @ inverse_metric
        normal = W @ inverse_metric
        outward = (steepest * W).sum(1, keepdim=True) / (normal * W).sum(1, keepdim=True)
        return steepest - outward * normal

    def tangent(self, W: Tensor, gradient: Tensor) -> Tensor:
        """The gradient without its component along each row."""
        return gradient - (gradient * W).sum(1, keepdim=True) * W

    def residual(self, W: Tensor, gradient: Tensor) -> Tensor:
        """Norm of the tangent part of the gradient."""
        return torch.linalg.vector_norm(self.tangent(W, gradient))


class Ball:
    """Rows of norm at most 1: the bound of Theorem 2 of the VPL paper with eta = 1.

    Example:
        >>> Ball().project(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """

    def project(self, W: Tensor) -> Tensor:
        """The nearest point of the unit ball, row by row; rows inside are kept."""
        return W / torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp_min(1)

    def inverse_metric(self, second_moment: Tensor) -> Tensor:
        """The identity: the nearest point of a ball is known in the Euclidean metric only."""
        return torch.eye(len(second_moment), dtype=second_moment.dtype, device=second_moment.device)

    def direction(self, W: Tensor, gradient: Tensor, inverse_metric: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient

    def tangent(self, W: Tensor, gradient: Tensor) -> Tensor:
        """The gradient itself: from inside the ball every way is open."""
        return gradient

    def residual(self, W: Tensor, gradient: Tensor) -> Tensor:
        """Norm of the gradient mapping at step 1."""
        return torch.linalg.vector_norm(W - self.project(W - gradient))


CONSTRAINTS: dict[str, type[Constraint]] = {"sphere": Sphere, "ball": Ball}
