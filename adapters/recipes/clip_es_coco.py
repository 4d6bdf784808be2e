"""CLIP-ES on MS COCO."""

from __future__ import annotations

from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS
from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.recipes.clip_es import ClipES, shape_of

__all__ = ["ClipESOnCOCO"]


@RECIPES.register("clip_es_coco")
class ClipESOnCOCO(ClipES):
    """CLIP-ES's refined CAMs."""

    dataset = "coco14"
    title = "CLIP-ES, generate_cams_coco14.py"
    script = "generate_cams_coco14.py"
    shape = shape_of(SCRIPTS["coco14"])
