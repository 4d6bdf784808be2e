"""Label maps on disk against the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpl_plugin.errors import InputError
from vpl_plugin.localization.bootstrap import iou_counts
from vpl_plugin.localization.evaluation import (
    SegmentationScores,
    confusion_matrix,
    error_shares,
    segmentation_scores,
)
from vpl_plugin.localization.ground_truth import check_shows_classes, read_truth
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask

__all__ = ["as_json", "score_masks"]


def score_masks(
    pairs: Iterable[tuple[Path, Path]],
    classes: Sequence[str],
    failures: dict[Path, str],
    *,
    counts: dict[Path, Tensor] | None = None,
) -> dict[str, Any] | None:
    """The scores of a set of photos.

    Args:
        pairs: label map and ground truth of each photo.
        classes: names of the foreground classes.
        failures: gets the ground truths that are missing or do not fit; they do not count.
        counts: gets (3, C) of :func:`~vpl_plugin.localization.iou_counts` for each ground truth
            that counts.

    Returns:
        What :func:`as_json` gives, the number of photos, and "errors", the shares of
        :func:`~vpl_plugin.localization.error_shares`; None where not one counts.

    Raises:
        ValueError: not one ground truth shows a class, which leaves the background's IoU alone.
    """
    total = torch.zeros(len(classes) + 1, len(classes) + 1, dtype=torch.int64)
    counted = []
    for predicted, truth in pairs:
        try:
            labels = read_mask(predicted)
            mask = read_truth(truth, len(classes), labels.shape)
            confusion = confusion_matrix(labels, mask, len(classes) + 1, ignore_index=IGNORE_INDEX)
        except FileNotFoundError as error:
            failures[truth] = f"not scored: there is no {error.filename}"
            continue
        except InputError as error:
            failures[truth] = f"not scored: {error}"
            continue
        total += confusion
        if counts is not None:
            counts[truth] = iou_counts(confusion)
        counted.append(truth)
    if not counted:
        return None
    if not total[1:].any():
        check_shows_classes(counted, len(classes))
    return {
        "photos": len(counted),
        **as_json(segmentation_scores(total), classes),
        "errors": error_shares(total)._asdict(),
    }


def as_json(scores: SegmentationScores, classes: Sequence[str]) -> dict[str, Any]:
    """mIoU, pixel accuracy and IoU by name, in [0, 1]; JSON has no NaN, so None stands for it."""
    per_class = zip(("background", *classes), scores.per_class_iou.tolist(), strict=True)
    return {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "per_class": {name: None if iou != iou else iou for name, iou in per_class},
    }
