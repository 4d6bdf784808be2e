"""Targets by name: what vision prototypes are fitted to where no targets are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vpl_plugin.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TARGETS", "Target"]


class Target(Protocol):
    """Makes the targets of some pixels from their features and the text prototypes."""

    def __call__(
        self,
        features: Tensor,
        text_prototypes: Tensor,
        tau_T: float = ...,
        *,
        label_masks: Tensor | None = ...,
    ) -> Tensor:
        """Rows of probabilities (p, N), from unit rows (p, D) and unit rows (N, D).

        ``tau_T`` is CLIP's temperature; ``label_masks`` (p, N) bool says which classes each
        pixel's photo is known to hold, or is None.
        """
        ...


TARGETS: Registry[Target] = Registry("targets", package=__name__, group="vpl_plugin.targets")
"""One file per target in this package, or an entry point of the group ``vpl_plugin.targets``."""
