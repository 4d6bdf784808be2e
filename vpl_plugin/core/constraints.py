"""The sets that constrain the prototypes: the unit sphere and the norm ball."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vpl_plugin.checks import LEAST_NORM

__all__ = ["CONSTRAINTS", "Ball", "Constraint", "Sphere", "unit_rows"]


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


def compute_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """What to compute with two tensors in: float64 where either is, else float32."""
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)


class Constraint(Protocol):
    """A set the rows of W stay on, and the geometry a solver needs there."""

    def project(self, W: Tensor) -> Tensor:
        """The nearest point of the set, row by row."""
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

    def tangent(self, W: Tensor, gradient: Tensor) -> Tensor:
        """The gradient itself: from inside the ball every way is open."""
        return gradient

    def residual(self, W: Tensor, gradient: Tensor) -> Tensor:
        """Norm of the gradient mapping at step 1."""
        return torch.linalg.vector_norm(W - self.project(W - gradient))


CONSTRAINTS: dict[str, type[Constraint]] = {"sphere": Sphere, "ball": Ball}
