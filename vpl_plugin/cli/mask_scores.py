"""Label maps on disk against the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vpl_plugin.localization.evaluation import SegmentationMeter, SegmentationScores
from vpl_plugin.localization.ground_truth import check_shows_classes, read_truth
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask

__all__ = ["as_json", "score_masks"]


def score_masks(
    pairs: Iterable[tuple[Path, Path]], classes: Sequence[str], failures: dict[Path, str]
) -> dict[str, Any] | None:
    """The scores of a set of photos.

    Args:
        pairs: label map and ground truth of each photo.
        classes: names of the foreground classes.
        failures: gets the ground truths that are missing or do not fit; they do not count.

    Returns:
        What :func:`as_json` gives, and the number of photos; None where not one counts.

    Raises:
        ValueError: not one ground truth shows a class, which leaves the background's IoU alone.
    """
    meter = SegmentationMeter(len(classes) + 1, ignore_index=IGNORE_INDEX)
    counted = []
    for predicted, truth in pairs:
        try:
            labels = read_mask(predicted)
            mask = read_truth(truth, len(classes), labels.shape)
            meter.update(labels, mask)
        except FileNotFoundError as error:
            failures[truth] = f"not scored: there is no {error.filename}"
            continue
        except ValueError as error:
            failures[truth] = f"not scored: {error}"
            continue
        counted.append(truth)
    if not counted:
        return None
    if not meter.confusion()[1:].any():
        check_shows_classes(counted, len(classes))
    return {"photos": len(counted), **as_json(meter.compute(), classes)}


def as_json(scores: SegmentationScores, classes: Sequence[str]) -> dict[str, Any]:
    """mIoU, pixel accuracy and IoU by name, in [0, 1]; JSON has no NaN, so None stands for it."""
    per_class = zip(("background", *classes), scores.per_class_iou.tolist(), strict=True)
    return {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "per_class": {name: None if iou != iou else iou for name, iou in per_class},
    }
