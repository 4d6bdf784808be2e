"""CLIP's own features: every block as it is."""

from __future__ import annotations

from torch import Tensor

from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.vision_tower import VisionTower

__all__ = ["clip"]


@FEATURE_KINDS.register("clip")
def clip(tower: VisionTower, tokens: Tensor) -> Tensor:
    """All blocks."""
    return tower.run(-1, tower.run_until(-1, tokens))
