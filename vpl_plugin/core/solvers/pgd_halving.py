"""Projected gradient descent whose step halves whenever the gradient grows: InMaP's rule."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vpl_plugin.core.descent import Point, Problem
from vpl_plugin.core.solvers import SOLVERS

__all__ = ["pgd_halving"]


@SOLVERS.register("pgd_halving")
def pgd_halving(problem: Problem, W: Tensor, lr: float) -> Iterator[Point]:
    """Eq. 11 with the step rule of InMaP (Qian et al., NeurIPS 2023, ``image_opt``).

    The step halves whenever the norm of the gradient exceeds the one before. That norm does not go
    to zero on the sphere, so the step collapses in the end and the iterate freezes.
    """
    step = torch.as_tensor(lr, dtype=W.dtype, device=W.device)
    norm_before = torch.full_like(step, torch.inf)
    while True:
        point = problem.at(W)
        yield point
        norm = torch.linalg.vector_norm(point.gradient)
        # On the device, so that no iteration waits for the host.
        step = torch.where(norm > norm_before, step / 2, step)
        norm_before = norm
        W = problem.constraint.project(W - step * point.gradient)
