"""CLIP-ES (Lin et al., CVPR 2023) with vision prototypes, stage by stage."""

from __future__ import annotations

from typing import ClassVar

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.adapters.pipeline.run import Adapter, StageEntry

__all__ = ["ClipES"]

_STAGES = "vpl_plugin.adapters.clip_es.stages"


@ADAPTERS.register("clip_es")
class ClipES(Adapter):
    """CLIP-ES."""

    description = (
        "The CLIP-ES pipeline with vision prototypes. With --upstream PATH vpl-clip-es runs"
        " CLIP-ES's own code from a checkout instead; see vpl-clip-es --upstream . --help."
    )
    output = "vpl_clip_es"
    stages: ClassVar[dict[str, StageEntry]] = {
        "seeds": StageEntry(
            "photos -> text CAMs -> pixel features and seeds, an .npz per photo",
            f"{_STAGES}.seeds:Seeds",
        ),
        "learn": StageEntry(
            "seeds -> vision prototypes, a .safetensors with what made them",
            f"{_STAGES}.learn:Learn",
        ),
        "cams": StageEntry(
            "prototypes -> raw and refined CAMs, an .npz per photo", f"{_STAGES}.cams:CAMs"
        ),
        "masks": StageEntry(
            "CAMs -> dense CRF -> pseudo-masks, a palette PNG per photo", f"{_STAGES}.masks:Masks"
        ),
        "evaluate": StageEntry(
            "seed and pseudo-mask mIoU and the gap, as JSON", f"{_STAGES}.evaluate:Evaluate"
        ),
    }
    settings = Settings
