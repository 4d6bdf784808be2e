"""The loop around every solver: what a solver is given, and when enough points are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.core.constraints import Constraint
from vpl_plugin.core.oracle import Oracle

__all__ = ["Point", "Problem", "descend"]


class Problem(NamedTuple):
    """Minimise a loss over a set.

    Attributes:
        oracle: gives the loss and its gradient.
        constraint: the set the rows of W stay on.
    """

    oracle: Oracle
    constraint: Constraint

    def at(self, W: Tensor) -> Point:
        """The point W (N, D) of the set; nothing is computed yet."""
        return Point(self, W)


class Point:
    """A point of a problem; loss and gradient are computed once, when first asked for.

    Args:
        problem: the problem.
        W: (N, D), on the constraint set.
    """

    def __init__(self, problem: Problem, W: Tensor) -> None:
        self.W = W
        self._problem = problem
        self._residual: float | None = None

    @cached_property
    def _evaluated(self) -> tuple[Tensor, Tensor]:
        return self._problem.oracle(self.W)

    @property
    def loss(self) -> Tensor:
        """The loss, 0-d."""
        return self._evaluated[0]

    @property
    def gradient(self) -> Tensor:
        """Its gradient (N, D)."""
        return self._evaluated[1]

    @cached_property
    def tangent(self) -> Tensor:
        """The part of the gradient along which W can move (N, D)."""
        return self._problem.constraint.tangent(self.W, self.gradient)

    @property
    def residual(self) -> float:
        """How far W is from a stationary point, zero at one."""
        if self._residual is None:
            self.read()
        assert self._residual is not None
        return self._residual

    def read(self, *values: Tensor) -> list[float]:
        """0-d tensors on the host, and the residual along with them: one host-device sync.

        A solver that has to read a number of its own does so here, so that the test of the
        residual does not wait for the device a second time.
        """
        residual = self._problem.constraint.residual(self.W, self.gradient)
        self._residual, *numbers = torch.stack([residual, *values]).tolist()
        return numbers


def descend(
    points: Iterator[Point],
    *,
    iterations: int,
    least_residual: float = 0.0,
    observe: Callable[[Point], bool | None] | None = None,
) -> tuple[Point, str]:
    """Takes a solver's points until there are enough.

    Args:
        points: of a solver; the first is where it starts.
        iterations: the most steps to take.
        least_residual: stops at a point whose residual is at or under it; 0 never does.
        observe: sees each point but the one after the last step; True from it stops.

    Returns:
        The last point, and why it is the last: "iterations", "tolerance", "callback", or
        "stalled" where the solver ends by itself.

    Example:
        >>> from vpl_plugin.core.constraints import Sphere
        >>> from vpl_plugin.core.solvers import SOLVERS
        >>> class Bowl:
        ...     passes = 0
        ...     def __call__(self, W):
        ...         return (W - 1).square().sum() / 2, W - 1
        >>> points = SOLVERS["pgd"](Problem(Bowl(), Sphere()), torch.tensor([[1.0, 0.0]]), lr=0.5)
        >>> point, reason = descend(points, iterations=50)
        >>> point.W, reason
        (tensor([[0.7071, 0.7071]]), 'iterations')
    """
    for taken, point in enumerate(points):
        if taken == iterations:
            return point, "iterations"
        if observe is not None and observe(point):
            return point, "callback"
        if least_residual > 0 and point.residual <= least_residual:
            return point, "tolerance"
    return point, "stalled"
