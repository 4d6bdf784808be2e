"""Vision Prototype Learning (VPL) for CLIP-based weakly supervised semantic segmentation.

Public names are loaded when first used, so that importing the package takes no time and needs
nothing: the core runs on torch and numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpl_plugin.lazy import lazy_names

__version__ = "0.2.0"

if TYPE_CHECKING:
    from vpl_plugin.clip.load import load_clip
    from vpl_plugin.clip.prompts import class_prototypes, text_prototypes
    from vpl_plugin.core.gap import centroid_gap, cosine_gap, modify_gap
    from vpl_plugin.core.pixels import PixelChunk
    from vpl_plugin.core.prototypes import (
        PrototypeFit,
        fit_vision_prototypes,
        learn_vision_prototypes,
    )
    from vpl_plugin.core.rsc import RSCLoss, rsc_loss
    from vpl_plugin.core.theory import (
        distribution_bound,
        gap_lower_bound,
        span_split,
        suggest_tau_I,
    )
    from vpl_plugin.core.vpl_loss import VPLLoss, vpl_loss
    from vpl_plugin.errors import InputError
    from vpl_plugin.prototypes import Prototypes

__all__ = [
    "InputError",
    "PixelChunk",
    "PrototypeFit",
    "Prototypes",
    "RSCLoss",
    "VPLLoss",
    "__version__",
    "centroid_gap",
    "class_prototypes",
    "cosine_gap",
    "distribution_bound",
    "fit_vision_prototypes",
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "InputError": "errors",
        "PixelChunk": "core.pixels",
        "PrototypeFit": "core.prototypes",
        "Prototypes": "prototypes",
        "RSCLoss": "core.rsc",
        "VPLLoss": "core.vpl_loss",
        "centroid_gap": "core.gap",
        "class_prototypes": "clip.prompts",
        "cosine_gap": "core.gap",
        "distribution_bound": "core.theory",
        "fit_vision_prototypes": "core.prototypes",
        "gap_lower_bound": "core.theory",
        "learn_vision_prototypes": "core.prototypes",
        "load_clip": "clip.load",
        "modify_gap": "core.gap",
        "rsc_loss": "core.rsc",
        "span_split": "core.theory",
        "suggest_tau_I": "core.theory",
        "text_prototypes": "clip.prompts",
        "vpl_loss": "core.vpl_loss",
    },
)
