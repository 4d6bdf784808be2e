"""How sure a difference in mIoU is: the paired bootstrap over photos."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.checks import check_count, check_fraction, describe
from vpl_plugin.errors import InputError

__all__ = ["Difference", "iou_counts", "mean_iou", "paired_difference", "percent", "points"]


class Difference(NamedTuple):
    """A difference of two mIoUs on the same photos, in [-1, 1].

    Attributes:
        mean: the difference on all photos.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float


def iou_counts(confusion: Tensor) -> Tensor:
    """What mIoU needs of a confusion matrix; it adds up over photos.

    Args:
        confusion: (..., C, C) counts, rows the ground truth, columns the prediction.

    Returns:
        (..., 3, C) int64: pixels of each class that are right, predicted, in the ground truth.

    Example:
        >>> iou_counts(torch.tensor([[3, 1], [0, 2]]))
        tensor([[3, 2],
                [3, 3],
                [4, 2]])
    """
    right = confusion.diagonal(dim1=-2, dim2=-1)
    return torch.stack([right, confusion.sum(dim=-2), confusion.sum(dim=-1)], dim=-2)


def mean_iou(counts: Tensor) -> Tensor:
    """The mean IoU over the classes with ground-truth pixels.

    Args:
        counts: (..., 3, C), sums of :func:`iou_counts`.

    Returns:
        (...), float64 in [0, 1]; NaN where there is no ground truth.

    Example:
        >>> mean_iou(torch.tensor([[3, 2], [3, 3], [4, 2]]))
        tensor(0.7083, dtype=torch.float64)
    """
    right, predicted, truth = counts.double().unbind(dim=-2)
    present = truth > 0
    iou = torch.where(present, right / (truth + predicted - right), 0.0)
    return iou.sum(dim=-1) / present.sum(dim=-1)


def paired_difference(
    counts: Tensor,
    base: Tensor,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """The difference of two mIoUs, with the interval that a paired bootstrap over photos gives.

    Each draw takes as many photos as there are, with replacement, the same for both sides; the
    interval runs between the quantiles of the draws' differences.

    Args:
        counts: (photos, 3, C) of :func:`iou_counts`; or (runs, photos, 3, C), whose mIoUs are
            averaged.
        base: the same of what is compared with, of the same photos in the same order.
        level: of the interval, in [0, 1].
        draws: of photos.
        seed: of the draws.

    Returns:
        ``counts`` minus ``base``.

    Raises:
        InputError: shapes that do not fit, no photo, or settings out of range.

    Example:
        >>> base = torch.tensor([[[2, 2], [4, 4], [4, 4]]]).expand(8, -1, -1)
        >>> better = torch.tensor([[[3, 3], [4, 4], [4, 4]]]).expand(8, -1, -1)
        >>> [round(value, 3) for value in paired_difference(better, base)]
        [0.267, 0.267, 0.267]
    """
    check_fraction("level", level)
    check_count("draws", draws)
    sides = []
    for name, side in (("counts", counts), ("base", base)):
        if side.ndim not in (3, 4) or side.shape[-2] != 3 or side.shape[-3] == 0:
            raise InputError(
                f"{name} must have shape (photos, 3, C) or (runs, photos, 3, C);"
                f" got {describe(side)}"
            )
        sides.append(side[None] if side.ndim == 3 else side)
    if sides[0].shape[1:] != sides[1].shape[1:]:
        raise InputError(
            "counts and base must be of the same photos and classes;"
            f" got shapes {tuple(counts.shape)} and {tuple(base.shape)}"
        )
    photos = sides[0].shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(photos, (draws, photos), generator=generator)
    times = torch.zeros(draws, photos, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))

    def averaged(side: Tensor, weights: Tensor) -> Tensor:
        summed = torch.einsum("wp,rpkc->wrkc", weights, side.cpu().double())
        return mean_iou(summed).mean(dim=1)

    everything = torch.ones(1, photos, dtype=torch.float64)
    mean = averaged(sides[0], everything) - averaged(sides[1], everything)
    differences = averaged(sides[0], times) - averaged(sides[1], times)
    tail = (1 - level) / 2
    low, high = differences.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return Difference(float(mean), float(low), float(high))


def percent(miou: float) -> str:
    """A mIoU of [0, 1] in percent.

    >>> percent(0.4567)
    '45.7'
    """
    return f"{100 * miou:.1f}"


def points(difference: Difference) -> str:
    """A difference of mIoU in points, with its interval.

    >>> points(Difference(0.0412, 0.031, 0.0525))
    '+4.1 [3.1, 5.2]'
    """
    # Adding 0 makes -0.0 a plain 0.0.
    mean, low, high = (round(100 * value, 1) + 0.0 for value in difference)
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"
