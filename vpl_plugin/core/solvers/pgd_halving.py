"""Projected gradient descent whose step halves whenever the gradient grows: InMaP's rule."""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.core.constraints import Constraint
from vpl_plugin.core.oracle import Oracle
from vpl_plugin.core.solvers.base import Observer, SolverResult

__all__ = ["pgd_halving"]


def pgd_halving(
    oracle: Oracle,
    W: Tensor,
    constraint: Constraint,
    *,
    lr: float,
    iterations: int,
    observe: Observer,
) -> SolverResult:
    """Eq. 11 with the step rule of InMaP (Qian et al., NeurIPS 2023, ``image_opt``).

    The step halves whenever the norm of the gradient exceeds the one before. That norm does not go
    to zero on the sphere, so the step collapses in the end and the iterate freezes.
    """
    step = torch.as_tensor(lr, dtype=W.dtype, device=W.device)
    norm_before = torch.full_like(step, torch.inf)
    for _ in range(iterations):
        loss, gradient = oracle(W)
        if reason := observe(W, loss, gradient):
            return SolverResult(W, reason)
        norm = torch.linalg.vector_norm(gradient)
        # On the device, so that no iteration waits for the host.
        step = torch.where(norm > norm_before, step / 2, step)
        norm_before = norm
        W = constraint.project(W - step * gradient)
    return SolverResult(W, "iterations")
