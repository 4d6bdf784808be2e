"""Projected gradient descent with a fixed step: the paper's solver."""

from __future__ import annotations

from torch import Tensor

from vpl_plugin.core.constraints import Constraint
from vpl_plugin.core.oracle import Oracle
from vpl_plugin.core.solvers.base import Observer, SolverResult

__all__ = ["pgd"]


def pgd(
    oracle: Oracle,
    W: Tensor,
    constraint: Constraint,
    *,
    lr: float,
    iterations: int,
    observe: Observer,
) -> SolverResult:
    """W <- project(W - lr grad L(W)), Eq. 11 of the VPL paper (Alg. 1, lines 3-4).

    With the paper's lr = 10 the step exceeds what the curvature (about 1 / tau_I^2 times the top
    eigenvalue of the features' second moment) allows, so that the iterate may wander.
    """
    for _ in range(iterations):
        loss, gradient = oracle(W)
        if reason := observe(W, loss, gradient):
            return SolverResult(W, reason)
        W = constraint.project(W - lr * gradient)
    return SolverResult(W, "iterations")
