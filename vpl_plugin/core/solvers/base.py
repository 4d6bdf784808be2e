"""What every solver takes and returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from vpl_plugin.core.constraints import Constraint
from vpl_plugin.core.oracle import Oracle

__all__ = ["Observer", "Solver", "SolverResult"]


class SolverResult(NamedTuple):
    """Where a solver ended.

    Attributes:
        W: (N, D), on the constraint set.
        reason: why it stopped: "iterations", "tolerance", "callback" or "stalled".
    """

    W: Tensor
    reason: str


class Observer(Protocol):
    """Sees every iterate; a reason it returns ends the solver there."""

    def __call__(self, W: Tensor, loss: Tensor, gradient: Tensor) -> str | None:
        """Called with an iterate, its loss and its gradient."""
        ...


class Solver(Protocol):
    """A solver of min L(W) over the constraint set, from W on."""

    def __call__(
        self,
        oracle: Oracle,
        W: Tensor,
        constraint: Constraint,
        *,
        lr: float,
        iterations: int,
        observe: Observer,
    ) -> SolverResult:
        """Runs at most ``iterations`` iterations with the first step ``lr``."""
        ...
