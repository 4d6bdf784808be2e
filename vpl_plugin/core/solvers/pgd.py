"""Projected gradient descent with a fixed step: the paper's solver."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vpl_plugin.core.descent import Point, Problem
from vpl_plugin.core.solvers import SOLVERS

__all__ = ["pgd"]


@SOLVERS.register("pgd")
def pgd(problem: Problem, W: Tensor, lr: float) -> Iterator[Point]:
    """W <- project(W - lr grad L(W)), Eq. 11 of the VPL paper (Alg. 1, lines 3-4).

    With the paper's lr = 10 the step exceeds what the curvature (about 1 / tau_I^2 times the top
    eigenvalue of the features' second moment) allows, so that the iterate may wander.
    """
    while True:
        point = problem.at(W)
        yield point
        W = problem.constraint.project(W - lr * point.gradient)
