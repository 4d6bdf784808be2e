"""Localisation: GradCAM from prototypes, attention affinity, seeds, pseudo-masks and their mIoU."""

from vpl_plugin.localization.affinity import (
    box_masks,
    mean_attention,
    refine_cams,
    transition_matrix,
)
from vpl_plugin.localization.bootstrap import (
    Difference,
    iou_counts,
    mean_iou,
    paired_difference,
)
from vpl_plugin.localization.classes import pad_classes
from vpl_plugin.localization.crf import clip_es_photo, dense_crf
from vpl_plugin.localization.evaluation import (
    ErrorShares,
    SegmentationMeter,
    SegmentationScores,
    confusion_matrix,
    error_shares,
    segmentation_scores,
)
from vpl_plugin.localization.grad_cam_package import ClassProbability, PrototypeClassifier
from vpl_plugin.localization.gradcam import GradCAMOutput, grad_cam
from vpl_plugin.localization.mask_files import (
    present_classes,
    read_mask,
    voc_palette,
    write_mask,
)
from vpl_plugin.localization.normalization import min_max
from vpl_plugin.localization.pseudo_masks import pseudo_mask
from vpl_plugin.localization.seeds import (
    background_score,
    cams_to_labels,
    resize_cams,
    seed_classes,
    seed_targets,
    targets_from_seeds,
)

__all__ = [
    "ClassProbability",
    "Difference",
    "ErrorShares",
    "GradCAMOutput",
    "PrototypeClassifier",
    "SegmentationMeter",
    "SegmentationScores",
    "background_score",
    "box_masks",
    "cams_to_labels",
    "clip_es_photo",
    "confusion_matrix",
    "dense_crf",
    "error_shares",
    "grad_cam",
    "iou_counts",
    "mean_attention",
    "mean_iou",
    "min_max",
    "pad_classes",
    "paired_difference",
    "present_classes",
    "pseudo_mask",
    "read_mask",
    "refine_cams",
    "resize_cams",
    "seed_classes",
    "seed_targets",
    "segmentation_scores",
    "targets_from_seeds",
    "transition_matrix",
    "voc_palette",
    "write_mask",
]
