"""CLIP-CPAL with vision prototypes: CLIP-ES's stages, some added and one exchanged."""

from __future__ import annotations

from typing import ClassVar

from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.adapters.methods.clip_es import ClipES
from vpl_plugin.adapters.pipeline.run import Adapter, StageEntry

__all__ = ["ClipCPAL"]

_STAGES = "vpl_plugin.adapters.clip_cpal.stages"


@ADAPTERS.register("clip_cpal")
class ClipCPAL(Adapter):
    """CLIP-CPAL."""

    description = (
        "CLIP-CPAL: the CLIP-ES pipeline with context prototype-aware learning, with text or vision"
        " prototypes. The stages seeds, learn, masks and evaluate are CLIP-ES's."
    )
    output = "vpl_clip_cpal"
    stages: ClassVar[dict[str, StageEntry]] = {
        "seeds": ClipES.stages["seeds"],
        "learn": ClipES.stages["learn"],
        "bank": StageEntry(
            "prototypes -> CAMs -> instance prototypes, an .npz per photo", f"{_STAGES}.bank:Bank"
        ),
        "adapt": StageEntry(
            "instance prototypes -> context prototypes -> prototypes trained with them",
            f"{_STAGES}.adapt:Adapt",
        ),
        "cams": StageEntry(
            "trained prototypes and context -> raw and refined CAMs, an .npz per photo",
            f"{_STAGES}.cams:CPALCAMs",
        ),
        "masks": ClipES.stages["masks"],
        "evaluate": ClipES.stages["evaluate"],
    }
    settings = CPALSettings
