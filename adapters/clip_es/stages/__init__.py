"""The stages of the CLIP-ES pipeline on files: seeds, learn, cams, masks, evaluate."""

from vpl_plugin.adapters.clip_es.stages.cams import run_cams
from vpl_plugin.adapters.clip_es.stages.evaluate import run_evaluate
from vpl_plugin.adapters.clip_es.stages.learn import SeedStream, run_learn
from vpl_plugin.adapters.clip_es.stages.masks import run_masks
from vpl_plugin.adapters.clip_es.stages.seeds import run_seeds
from vpl_plugin.adapters.clip_es.stages.settings import Settings

__all__ = [
    "SeedStream",
    "Settings",
    "run_cams",
    "run_evaluate",
    "run_learn",
    "run_masks",
    "run_seeds",
]
