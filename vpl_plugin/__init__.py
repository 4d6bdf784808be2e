"""Vision Prototype Learning (VPL) for CLIP-based weakly supervised semantic segmentation.

Public names are loaded when first used, so that importing the package takes no time and needs
nothing: the core runs on torch and numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vpl_plugin.clip.load import load_clip
    from vpl_plugin.clip.prompts import text_prototypes
    from vpl_plugin.core.gap import centroid_gap, cosine_gap, modify_gap
    from vpl_plugin.core.pixels import PixelChunk
    from vpl_plugin.core.prototypes import PrototypeFit, learn_vision_prototypes
    from vpl_plugin.core.rsc import RSCLoss, rsc_loss
    from vpl_plugin.core.theory import (
        distribution_bound,
        gap_lower_bound,
        span_split,
        suggest_tau_I,
    )
    from vpl_plugin.core.vpl_loss import VPLLoss, vpl_loss

_HOMES = {
    "PixelChunk": "core.pixels",
    "PrototypeFit": "core.prototypes",
    "RSCLoss": "core.rsc",
    "VPLLoss": "core.vpl_loss",
    "centroid_gap": "core.gap",
    "cosine_gap": "core.gap",
    "distribution_bound": "core.theory",
    "gap_lower_bound": "core.theory",
    "learn_vision_prototypes": "core.prototypes",
    "load_clip": "clip.load",
    "modify_gap": "core.gap",
    "rsc_loss": "core.rsc",
    "span_split": "core.theory",
    "suggest_tau_I": "core.theory",
    "text_prototypes": "clip.prompts",
    "vpl_loss": "core.vpl_loss",
}

__all__ = [
    "PixelChunk",
    "PrototypeFit",
    "RSCLoss",
    "VPLLoss",
    "__version__",
    "centroid_gap",
    "cosine_gap",
    "distribution_bound",
    "gap_lower_bound",
    "learn_vision_prototypes",
    "load_clip",
    "modify_gap",
    "rsc_loss",
    "span_split",
    "suggest_tau_I",
    "text_prototypes",
    "vpl_loss",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
