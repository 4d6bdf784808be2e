"""Every number of CLIP-CPAL, with its source.

The paper (Tang et al., "Hunting Attributes: Context Prototype-Aware Learning for Weakly Supervised
Semantic Segmentation", CVPR 2024, arXiv 2403.07630) published no code; where a number is marked
"ours", it is a plain default or was chosen on training photographs (docs/cpal.md).
"""

from __future__ import annotations

__all__ = [
    "ALIGNMENT",
    "BLEND",
    "CAPACITY",
    "CLUSTERS",
    "CONSISTENCY_WEIGHT",
    "EPOCHS",
    "KMEANS_ITERATIONS",
    "LEARNING_RATE",
    "PHOTOS_PER_STEP",
    "POSITIVENESS_TEMPERATURE",
    "THRESHOLD",
    "TOP_K",
]

THRESHOLD = 0.4
"""Refined CAM above which a patch belongs to the instance. Ours: the Phi of VPL's own seeds."""

CAPACITY = 256
"""Instance prototypes that the support bank holds of each class. Ours."""

CLUSTERS = 8
"""Context prototypes of a class: k of k-means. Ours."""

KMEANS_ITERATIONS = 50
"""Most rounds of k-means; it stops where no assignment changes. Ours."""

TOP_K = 3
"""Soft positives of an instance. Ours (the paper: a number of nearest context prototypes)."""

POSITIVENESS_TEMPERATURE = 0.1
"""Of the softmax that turns similarities to positiveness. Ours."""

ALIGNMENT = 1.0
"""Share of the way that a photo's features are shifted to the bank's. Ours."""

BLEND = 0.5
"""Share of the prototype-aware CAM in the final one, the classifier's having the rest. Ours."""

CONSISTENCY_WEIGHT = 1.0
"""Of the L1 term beside the classification loss. Ours: the plain sum of both."""

LEARNING_RATE = 3e-3
"""Of Adam on the prototypes. Ours."""

EPOCHS = 5
"""Passes over the photos. Ours."""

PHOTOS_PER_STEP = 16
"""Photos of a gradient step. Ours."""
