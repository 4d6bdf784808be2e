"""Segmentation scores over the confusion matrix of a whole split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.checks import check_count, counted_pixels, describe
from vpl_plugin.errors import InputError

__all__ = [
    "ErrorShares",
    "SegmentationMeter",
    "SegmentationScores",
    "confusion_matrix",
    "error_shares",
    "segmentation_scores",
]


class SegmentationScores(NamedTuple):
    """The figures of a split.

    Attributes:
        miou: mean intersection over union, over the classes with ground-truth pixels; in [0, 1].
        per_class_iou: (C,) float64, NaN for a class neither predicted nor in the ground truth.
        pixel_accuracy: share of the counted pixels that are right; in [0, 1].
    """

    miou: float
    per_class_iou: Tensor
    pixel_accuracy: float


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    r"""The scores of a confusion matrix.

    .. math:: \mathrm{IoU}_c = h_{cc} / (\sum_j h_{cj} + \sum_i h_{ic} - h_{cc})

    Args:
        confusion: (C, C) counts, rows the ground truth, columns the prediction.

    Returns:
        mIoU, IoU of each class, pixel accuracy.

    Raises:
        InputError: not a square matrix, or not a single pixel counted.

    Example:
        >>> scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
        >>> round(scores.miou, 4), scores.per_class_iou
        (0.7083, tensor([0.7500, 0.6667,    nan], dtype=torch.float64))
    """
    counts, total = _checked(confusion)
    right = counts.diagonal()
    truth = counts.sum(dim=1)
    per_class_iou = right / (truth + counts.sum(dim=0) - right)
    return SegmentationScores(
        miou=float(per_class_iou[truth > 0].mean()),
        per_class_iou=per_class_iou,
        pixel_accuracy=float(right.sum() / total),
    )


class ErrorShares(NamedTuple):
    """The pixels that are wrong, by kind, as shares of all counted pixels; each in [0, 1].

    Attributes:
        class_to_background: pixels of a class called background.
        background_to_class: background called a class.
        class_to_class: pixels of a class called another class.
    """

    class_to_background: float
    background_to_class: float
    class_to_class: float


def error_shares(confusion: Tensor) -> ErrorShares:
    """What kinds of errors a confusion matrix holds.

    Args:
        confusion: (C, C) counts, rows the ground truth, label 0 the background.

    Returns:
        Three shares, which add up to 1 less the pixel accuracy.

    Raises:
        InputError: not a square matrix, or not a single pixel counted.

    Example:
        >>> error_shares(torch.tensor([[5, 1, 0], [2, 0, 1], [0, 0, 1]]))
        ErrorShares(class_to_background=0.2, background_to_class=0.1, class_to_class=0.1)
    """
    counts, total = _checked(confusion)
    classes = counts[1:, 1:]
    wrong = (counts[1:, 0].sum(), counts[0, 1:].sum(), classes.sum() - classes.diagonal().sum())
    return ErrorShares(*(float(each / total) for each in wrong))


def _checked(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """A confusion matrix in float64 on the CPU, and its sum."""
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(f"confusion must have shape (C, C); got {describe(confusion)}")
    counts = confusion.detach().double().cpu()
    total = counts.sum()
    if total == 0:
        raise InputError("confusion must count at least one pixel; got none")
    return counts, total


def confusion_matrix(
    prediction: Tensor | np.ndarray,
    mask: Tensor | np.ndarray,
    num_classes: int,
    *,
    ignore_index: int = 255,
) -> Tensor:
    """The confusion matrix of a photo, or of a batch of photos.

    Args:
        prediction: (..., H, W) integer labels in [0, C).
        mask: (..., H, W) integer ground truth in [0, C), or the ignored label.
        num_classes: number of labels C, background included.
        ignore_index: label of the ground-truth pixels that do not count.

    Returns:
        (C, C) int64 counts on the device of ``prediction``: rows the ground truth, columns the
        prediction.

    Raises:
        TypeError: labels that are no integers.
        InputError: shapes that differ, or a label that does not exist.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), num_classes=2)
        tensor([[1, 1],
                [0, 0]])
    """
    # Copies, as label maps that come straight from files are read-only.
    if isinstance(prediction, np.ndarray):
        prediction = torch.tensor(prediction)
    if isinstance(mask, np.ndarray):
        mask = torch.tensor(mask)
    mask = mask.to(prediction.device)
    counted = counted_pixels(prediction, mask, num_classes, ignore_index)
    cells = mask[counted].long() * num_classes + prediction[counted].long()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


class SegmentationMeter:
    """Adds up the confusion matrix of a split, photo by photo (torchmetrics).

    Under ``torch.distributed``, :meth:`compute` sums the matrices of all ranks.

    Args:
        num_classes: number of labels C, background included: 21 for VOC, 81 for COCO.
        ignore_index: label of the ground-truth pixels that do not count.
        device: where the matrix is kept and photos are compared.
        sum_over_ranks: False where one rank measures alone and must not wait for the others.

    Raises:
        InputError: ``num_classes`` is no whole number of 1 or more.

    Example:
        >>> meter = SegmentationMeter(num_classes=2)
        >>> meter.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 255]]))
        >>> meter.compute().miou
        1.0
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        device: torch.device | str = "cpu",
        sum_over_ranks: bool = True,
    ) -> None:
        check_count("num_classes", num_classes)
        # Imported here as it brings torchvision and matplotlib with it.
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # Its own validation sorts all pixels (torch.unique); update() checks the range instead.
        self._matrix = MulticlassConfusionMatrix(
            num_classes,
            ignore_index=ignore_index,
            validate_args=False,
            sync_on_compute=sum_over_ranks,
        ).to(device)

    def update(self, prediction: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> None:
        """Count the pixels of a photo, or of a batch of photos.

        Args:
            prediction: (..., H, W) integer labels in [0, C).
            mask: (..., H, W) integer ground truth in [0, C), or the ignored label.

        Raises:
            TypeError: labels that are no integers.
            InputError: shapes that differ, or a label that does not exist.
        """
        prediction = torch.as_tensor(prediction, device=self._matrix.device)
        mask = torch.as_tensor(mask, device=self._matrix.device)
        counted_pixels(prediction, mask, self.num_classes, self.ignore_index)
        self._matrix.update(prediction, mask)

    def compute(self) -> SegmentationScores:
        """The scores of all photos so far.

        Raises:
            InputError: no pixel was counted.
        """
        return segmentation_scores(self.confusion())

    def confusion(self) -> Tensor:
        """(C, C) counts so far: rows the ground truth, columns the prediction."""
        return self._matrix.compute()
