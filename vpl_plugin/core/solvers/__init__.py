"""The registry of solvers: one small file each, chosen by name."""

from __future__ import annotations

from vpl_plugin.core.solvers.apgd import apgd
from vpl_plugin.core.solvers.base import Solver, SolverResult
from vpl_plugin.core.solvers.pgd import pgd
from vpl_plugin.core.solvers.pgd_halving import pgd_halving

__all__ = ["SOLVERS", "Solver", "SolverResult"]

SOLVERS: dict[str, Solver] = {"apgd": apgd, "pgd": pgd, "pgd_halving": pgd_halving}
