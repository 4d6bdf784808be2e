"""Kinds of dense features by name: what the last blocks do in the place of their own attention.

CLIP's last block mixes the patches for the sake of the class token, and each patch's own feature
suffers by it. Methods that classify pixels with CLIP as it is exchange that attention. They differ
in what attends to what, and in whether the residual and the MLP of the block stay:

=========  ================================  ========  ====
name       the last block's attention        residual  MLP
=========  ================================  ========  ====
clip       softmax(q k)                      yes       yes
maskclip   none: each patch its own value    yes       yes
sclip      softmax(q q) + softmax(k k)       yes       yes
clearclip  softmax(q q)                      no        no
surgery    softmax(v v), in the last six     yes       no
=========  ================================  ========  ====
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vpl_plugin.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from vpl_plugin.clip.vision_tower import VisionTower

__all__ = ["FEATURE_KINDS", "FeatureKind"]


class FeatureKind(Protocol):
    """Runs all blocks of a vision tower, the last ones in its own way."""

    def __call__(self, tower: VisionTower, tokens: Tensor) -> Tensor:
        """What the tower projects, (B, 1 + h * w, C), from the tokens that enter its first block.

        The class token comes first and is dropped by the projection.
        """
        ...


FEATURE_KINDS: Registry[FeatureKind] = Registry(
    "kind of features", package=__name__, group="vpl_plugin.feature_kinds"
)
"""A file per kind in this package, or an entry point of the group ``vpl_plugin.feature_kinds``."""
