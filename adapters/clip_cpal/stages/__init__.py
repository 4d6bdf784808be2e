"""The stages that CLIP-CPAL adds to those of CLIP-ES: bank, adapt, and its own cams."""

from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.clip_cpal.stages.adapt import Adapt
from vpl_plugin.adapters.clip_cpal.stages.bank import Bank
from vpl_plugin.adapters.clip_cpal.stages.cams import CPALCAMs

__all__ = ["Adapt", "Bank", "CPALCAMs", "CPALSettings"]
