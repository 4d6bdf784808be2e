"""A decoder measured on photos with ground truth while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from vpl_plugin.clip import open_photo
from vpl_plugin.localization.evaluation import SegmentationMeter
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.examples import Example
from vpl_plugin.segmentation.inference import most_likely, photo_views

__all__ = ["validation"]

logger = logging.getLogger(__name__)


def validation(examples: Sequence[Example]) -> Callable[[Segmenter], Mapping[str, float]]:
    """What :func:`~vpl_plugin.segmentation.training.train_decoder` takes as ``validate``.

    Args:
        examples: photos with ground truth, each seen whole and at its own size.

    Returns:
        A function that gives "miou" and "pixel_accuracy", in [0, 1], without image-level labels.
    """

    def validate(segmenter: Segmenter) -> dict[str, float]:
        meter = SegmentationMeter(
            len(segmenter.classes) + 1, ignore_index=IGNORE_INDEX, sum_over_ranks=False
        )
        for example in examples:
            views = photo_views(segmenter, open_photo(example.photo))
            meter.update(most_likely(views), read_mask(example.mask))
        scores = meter.compute()
        logger.info("validation mIoU: %.1f", 100 * scores.miou)
        return {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}

    return validate
