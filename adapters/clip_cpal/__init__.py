"""CLIP-CPAL: context prototype-aware learning on top of the CLIP-ES pipeline."""

from vpl_plugin.adapters.clip_cpal.alignment import align_features
from vpl_plugin.adapters.clip_cpal.context_prototypes import context_prototypes
from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
from vpl_plugin.adapters.clip_cpal.positives import soft_positives
from vpl_plugin.adapters.clip_cpal.prototype_cams import prototype_aware_cam
from vpl_plugin.adapters.clip_cpal.support_bank import SupportBank

__all__ = [
    "SupportBank",
    "align_features",
    "context_prototypes",
    "instance_prototypes",
    "prototype_aware_cam",
    "soft_positives",
]
