"""Prompt templates: texts with ``{}`` where the name of a class goes."""

from __future__ import annotations

__all__ = ["CLIP_ES", "ENSEMBLE", "SINGLE", "TEMPLATES"]

SINGLE = ("a photo of a {}.",)
"""CLIP's own template, the single prompt of the paper's Table 4."""

CLIP_ES = ("a clean origami {}.",)
"""The template of CLIP-ES."""

ENSEMBLE = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a clean origami {}.",
    "a drawing of the {}.",
    "a {} in a scene.",
)
"""Five of CLIP's ImageNet templates, for the ensemble prompts of the paper's Table 4."""

TEMPLATES = {"clip_es": CLIP_ES, "single": SINGLE, "ensemble": ENSEMBLE}
"""The above by the names that commands take."""
