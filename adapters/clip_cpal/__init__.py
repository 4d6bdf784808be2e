"""CLIP-CPAL: context prototype-aware learning on top of the CLIP-ES pipeline.

CPAL (Tang et al., CVPR 2024, arXiv 2403.07630) published no code. This is its CLIP-ES form as its
paper describes it. **From the paper**: instance prototypes by masked average pooling, a support
bank per class, k-means context prototypes, the top-K of them as soft positives weighted by
similarity, a shift of the features toward the bank's distribution, the prototype-aware CAM (ReLU of
the weighted mean cosine similarity), and its L1 distance to the original CAM beside the
classification loss. **Our reading** where it is silent: each module's docstring says so,
``constants`` names the source of every number, and docs/cpal.md holds the list in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpl_plugin.lazy import lazy_names

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_cpal.alignment import align_features
    from vpl_plugin.adapters.clip_cpal.clustering import context_prototypes
    from vpl_plugin.adapters.clip_cpal.context import Context, read_context, write_context
    from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
    from vpl_plugin.adapters.clip_cpal.positives import soft_positives
    from vpl_plugin.adapters.clip_cpal.prototype_cams import prototype_aware_cam
    from vpl_plugin.adapters.clip_cpal.self_supervision import (
        Adaptation,
        Example,
        adapt_prototypes,
        classifier_cams,
    )
    from vpl_plugin.adapters.clip_cpal.support_bank import SupportBank

__all__ = [
    "Adaptation",
    "Context",
    "Example",
    "SupportBank",
    "adapt_prototypes",
    "align_features",
    "classifier_cams",
    "context_prototypes",
    "instance_prototypes",
    "prototype_aware_cam",
    "read_context",
    "soft_positives",
    "write_context",
]

# Loaded when first used: a command's --help does not wait for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Adaptation": "self_supervision",
        "Context": "context",
        "Example": "self_supervision",
        "SupportBank": "support_bank",
        "adapt_prototypes": "self_supervision",
        "align_features": "alignment",
        "classifier_cams": "self_supervision",
        "context_prototypes": "clustering",
        "instance_prototypes": "instances",
        "prototype_aware_cam": "prototype_cams",
        "read_context": "context",
        "soft_positives": "positives",
        "write_context": "context",
    },
)
