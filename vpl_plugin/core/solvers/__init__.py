"""Solvers by name: how vision prototypes are reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from vpl_plugin.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from vpl_plugin.core.descent import Point, Problem

__all__ = ["SOLVERS", "Solver"]


class Solver(Protocol):
    """Yields points of ever smaller loss on the constraint set, from W on.

    The first point is W itself. Whoever takes the points decides when there are enough; a solver
    that returns says that no step descends any more.
    """

    def __call__(self, problem: Problem, W: Tensor, lr: float) -> Iterator[Point]:
        """The points, from W (N, D) and the first step ``lr`` on."""
        ...


SOLVERS: Registry[Solver] = Registry("solver", package=__name__, group="vpl_plugin.solvers")
"""One file per solver in this package, or an entry point of the group ``vpl_plugin.solvers``."""
