"""The stages of the CLIP-ES pipeline on files, each a file: seeds, learn, cams, masks, evaluate."""

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stages.cams import CAMs
from vpl_plugin.adapters.clip_es.stages.evaluate import Evaluate
from vpl_plugin.adapters.clip_es.stages.learn import Learn, SeedStream
from vpl_plugin.adapters.clip_es.stages.masks import Masks
from vpl_plugin.adapters.clip_es.stages.seeds import Seeds

__all__ = ["CAMs", "Evaluate", "Learn", "Masks", "SeedStream", "Seeds", "Settings"]
