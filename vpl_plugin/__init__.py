"""Vision Prototype Learning (VPL) for CLIP-based weakly supervised semantic segmentation.

Public names are loaded when first used, so that importing the package takes no time and needs
nothing: the core runs on torch and numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vpl_plugin.core.prototypes import PrototypeFit, learn_vision_prototypes

_HOMES = {
    "PrototypeFit": "vpl_plugin.core.prototypes",
    "learn_vision_prototypes": "vpl_plugin.core.prototypes",
}

__all__ = ["PrototypeFit", "__version__", "learn_vision_prototypes"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
