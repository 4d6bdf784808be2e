"""The stages that CLIP-CPAL adds to those of CLIP-ES: bank, adapt, and its own cams."""

from vpl_plugin.adapters.clip_cpal.stages.adapt import run_adapt
from vpl_plugin.adapters.clip_cpal.stages.bank import run_bank
from vpl_plugin.adapters.clip_cpal.stages.cams import run_cpal_cams
from vpl_plugin.adapters.clip_cpal.stages.settings import CPALSettings

__all__ = ["CPALSettings", "run_adapt", "run_bank", "run_cpal_cams"]
