"""Nesterov's accelerated projected gradient with backtracking and adaptive restart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vpl_plugin.core.constraints import Sphere
from vpl_plugin.core.descent import Point, Problem
from vpl_plugin.core.solvers import SOLVERS

__all__ = ["apgd"]

# An accepted step lets the next one grow a little, since curvature falls along the way.
GROWTH = 1.05
# Backtracking below this step means that rounding, not curvature, rejects the steps.
SMALLEST_STEP = 1e-10
# Directions of the features with less than this share of the largest variance count as having it,
# so that the inverse of the metric is well conditioned.
METRIC_RIDGE = 0.01


@SOLVERS.register("apgd")
def apgd(problem: Problem, W: Tensor, lr: float) -> Iterator[Point]:
    """Eq. 11 of the VPL paper, accelerated: the same problem in a small fraction of the passes.

    Each iteration steps from the extrapolated point in the metric of the features' second moment,
    projects, and extrapolates again (Nesterov). One evaluation serves both the next gradient and
    the test of the step: where the curvature seen along the move exceeds 1 / step, the step is
    shortened to fit and tried again. Momentum restarts where it points uphill (the gradient scheme
    of O'Donoghue and Candes, 2015). ``lr`` is the first step tried.

    One host-device sync per evaluation: backtracking is a decision of the host.
    """
    constraint = problem.constraint
    # The nearest point of a ball is known in the Euclidean metric only.
    on_sphere = isinstance(constraint, Sphere)
    metric = _FeatureMetric(problem.oracle.second_moment()) if on_sphere else _EuclideanMetric()
    step = lr
    momentum = torch.ones((), dtype=W.dtype, device=W.device)
    here = problem.at(W)
    while True:
        yield here
        direction = metric.steepest(here)
        while True:
            W_next = constraint.project(here.W - step * direction)
            move = W_next - W
            uphill = (here.gradient * move).sum() > 0
            momentum_next = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
            inertia = torch.where(uphill, 0.0, (momentum - 1) / momentum_next)
            there = problem.at(constraint.project(W_next + inertia * move))
            change = there.W - here.W
            # Tangent parts, as the bend of the sphere itself counts as curvature, too.
            bend = there.tangent - here.tangent
            (curvature,) = there.read((bend * change).sum() / metric.square(change))
            # Written so that the NaN of an unmoved iterate accepts, too.
            if not step * curvature > 1:
                break
            step = min(step / 2, 1 / curvature)
            if step < SMALLEST_STEP:
                return
        W, here, momentum = W_next, there, momentum_next
        step *= GROWTH


class _FeatureMetric:
    """The metric of the features' second moment, ridged, on the sphere.

    Pixel features lie in a narrow cone, so that the curvature along their mean exceeds that along
    the rest a hundredfold; in this metric it is about even.
    """

    def __init__(self, second_moment: Tensor) -> None:
        eigenvalues, vectors = torch.linalg.eigh(second_moment)
        scale = eigenvalues[-1] / (eigenvalues + METRIC_RIDGE * eigenvalues[-1])
        self._inverse = (vectors * scale) @ vectors.T
        self._metric = torch.linalg.inv(self._inverse)

    def steepest(self, point: Point) -> Tensor:
        """The Riemannian gradient: the steepest tangent direction."""
        steepest = point.gradient @ self._inverse
        normal = point.W @ self._inverse
        outward = (steepest * point.W).sum(1, keepdim=True) / (normal * point.W).sum(
            1, keepdim=True
        )
        return steepest - outward * normal

    def square(self, change: Tensor) -> Tensor:
        """The squared length of a change of W, 0-d."""
        return ((change @ self._metric) * change).sum()


class _EuclideanMetric:
    def steepest(self, point: Point) -> Tensor:
        return point.tangent

    def square(self, change: Tensor) -> Tensor:
        return (change * change).sum()
