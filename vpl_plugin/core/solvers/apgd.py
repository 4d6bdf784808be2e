"""Nesterov's accelerated projected gradient with backtracking and adaptive restart."""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.core.constraints import Constraint
from vpl_plugin.core.oracle import Oracle
from vpl_plugin.core.solvers.base import Observer, SolverResult

__all__ = ["apgd"]

# An accepted step lets the next one grow a little, since curvature falls along the way.
GROWTH = 1.05
# Backtracking below this step means that rounding, not curvature, rejects the steps.
SMALLEST_STEP = 1e-10


def apgd(
    oracle: Oracle,
    W: Tensor,
    constraint: Constraint,
    *,
    lr: float,
    iterations: int,
    observe: Observer,
) -> SolverResult:
    """Eq. 11 of the VPL paper, accelerated: the same problem in a small fraction of the passes.

    Each iteration steps from the extrapolated point in the metric of the features' second moment,
    projects, and extrapolates again (Nesterov). One evaluation serves both the next gradient and
    the test of the step: where the curvature seen along the move exceeds 1 / step, the step is
    shortened to fit and tried again. Momentum restarts where it points uphill (the gradient scheme
    of O'Donoghue and Candes, 2015). ``lr`` is the first step tried.

    One host-device sync an evaluation: backtracking is a decision of the host.
    """
    inverse_metric = constraint.inverse_metric(oracle.second_moment())
    metric = torch.linalg.inv(inverse_metric)
    step = lr
    momentum = torch.ones((), dtype=W.dtype, device=W.device)
    extrapolated = W
    loss, gradient = oracle(extrapolated)
    for _ in range(iterations):
        if reason := observe(extrapolated, loss, gradient):
            return SolverResult(extrapolated, reason)
        direction = constraint.direction(extrapolated, gradient, inverse_metric)
        while True:
            W_next = constraint.project(extrapolated - step * direction)
            move = W_next - W
            uphill = (gradient * move).sum() > 0
            momentum_next = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
            inertia = torch.where(uphill, 0.0, (momentum - 1) / momentum_next)
            next_point = constraint.project(W_next + inertia * move)
            next_loss, next_gradient = oracle(next_point)
            change = next_point - extrapolated
            # Tangent parts, as the bend of the sphere itself counts as curvature, too.
            bend = constraint.tangent(next_point, next_gradient) - constraint.tangent(
                extrapolated, gradient
            )
            curvature = float((bend * change).sum() / ((change @ metric) * change).sum())
            # Written so that the NaN of an unmoved iterate accepts, too.
            if not step * curvature > 1:
                break
            step = min(step / 2, 1 / curvature)
            if step < SMALLEST_STEP:
                return SolverResult(extrapolated, "stalled")
        W, extrapolated, momentum = W_next, next_point, momentum_next
        loss, gradient = next_loss, next_gradient
        step *= GROWTH
    return SolverResult(extrapolated, "iterations")
