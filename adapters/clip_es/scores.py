"""How good CAMs and prototypes are on photos with masks: seed mIoU, and the modality gap."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import photo_cams
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto
from vpl_plugin.checks import counted_pixels
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.errors import InputError
from vpl_plugin.localization.bootstrap import iou_counts
from vpl_plugin.localization.evaluation import SegmentationScores, segmentation_scores
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.prototypes import Prototypes

__all__ = ["SeedScores", "mask_on_grid", "scores_by_power", "seed_confusion", "seed_scores"]

# The powers of the background score that CLIP-ES's eval_cam.py tries; the best one counts.
RAW_POWERS = tuple(float(power) for power in range(1, 11))
REFINED_POWERS = (1.0, 2.0)


class SeedScores(NamedTuple):
    """Figures of one set of prototypes on one set of photos.

    Attributes:
        raw: mIoU of the raw CAMs' label maps, in [0, 1], at the best background power.
        refined: the same after the attention affinity.
        raw_power: that power.
        refined_power: that power.
        gap: mean cosine gap of the object pixels to the prototype of their class, in [0, 2].
        raw_counts: (photos, 3, C + 1) of :func:`~vpl_plugin.localization.iou_counts` at that
            power, for the interval of a difference.
        refined_counts: the same after the attention affinity.
    """

    raw: float
    refined: float
    raw_power: float
    refined_power: float
    gap: float
    raw_counts: Tensor
    refined_counts: Tensor


@functools.cache
def background_threshold(power: float) -> float:
    """The CAM value at which the background score (1 - m)^power equals m.

    >>> background_threshold(1), round(background_threshold(2), 3)
    (0.5, 0.382)
    """
    return float(brentq(lambda value: (1 - value) ** power - value, 0, 1, xtol=1e-15))


def seed_confusion(
    cams: Tensor,
    classes: Sequence[int],
    size: tuple[int, int],
    mask: Tensor | np.ndarray,
    num_foreground: int,
    powers: Sequence[float],
) -> Tensor:
    """Confusion matrices of a photo's label maps, one for each background power.

    The background wins where (1 - m)^power >= m for the largest CAM m, so where m lies at or under
    a threshold that falls as the power rises: one histogram over (powers that the background wins
    at, truth, class) serves all powers.

    Args:
        cams: (K, h, w) in [0, 1], of the classes present.
        classes: their indices.
        size: (height, width) of the photo.
        mask: (height, width) ground truth: 0 background, class + 1, 255 ignored.
        num_foreground: number of classes C.
        powers: of the background score, rising.

    Returns:
        (powers, C + 1, C + 1) int64 counts on the CPU: rows the ground truth, columns the
        prediction.

    Raises:
        ValueError: the mask is not of the photo's size, or holds a label that does not exist.

    Example:
        >>> cams = torch.tensor([[[0.9, 0.45, 0.2]]])
        >>> seed_confusion(cams, [0], (1, 3), torch.tensor([[1, 1, 0]]), 1, [1, 2])
        tensor([[[1, 0],
                 [1, 1]],
        <BLANKLINE>
                [[1, 0],
                 [0, 2]]])
    """
    score, best = resize_cams(cams, size).cpu().max(dim=0)
    labels = (torch.tensor(classes) + 1)[best]
    # A copy, as a mask that comes straight from a file is read-only.
    truth = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask
    count = num_foreground + 1
    counted = counted_pixels(labels, truth, count, IGNORE_INDEX)
    falling = [background_threshold(power) for power in powers]
    background_for = torch.bucketize(-score, -torch.tensor(falling), right=True)
    cells = (background_for * count + truth) * count + labels
    histogram = torch.bincount(cells[counted], minlength=(len(powers) + 1) * count**2)
    histogram = histogram.view(len(powers) + 1, count, count)
    as_class = histogram.cumsum(dim=0)[:-1]
    as_background = (histogram.sum(dim=0) - as_class).sum(dim=-1)
    as_class[..., 0] += as_background
    return as_class


def scores_by_power(
    powers: Sequence[float], confusion: Tensor
) -> tuple[float, dict[float, SegmentationScores]]:
    """The power of the best mIoU, and the scores at every power, of :func:`seed_confusion`."""
    scores = {
        power: segmentation_scores(counts) for power, counts in zip(powers, confusion, strict=True)
    }
    return max(scores, key=lambda power: scores[power].miou), scores


def mask_on_grid(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """The label at the centre of each patch.

    Args:
        mask: (H, W) uint8.
        grid: (h, w).

    Returns:
        (h * w,) int64.

    Example:
        >>> mask_on_grid(np.array([[1, 1, 2, 2], [1, 1, 2, 2]], dtype=np.uint8), (1, 2))
        tensor([1, 2])
    """
    rows, columns = (
        ((np.arange(cells) + 0.5) * side / cells).astype(int)
        for side, cells in zip(mask.shape, grid, strict=True)
    )
    return torch.from_numpy(mask[np.ix_(rows, columns)].astype(np.int64)).flatten()


def seed_scores(
    model: ClipModel,
    photos: Iterable[tuple[EncodedPhoto, np.ndarray]],
    prototypes: Prototypes,
    *,
    progress: bool = False,
) -> SeedScores:
    """Scores the CAMs that prototypes give on photos with masks, labels given.

    Args:
        model: the model that encoded the photos.
        photos: pairs of an encoded photo and its mask (H, W) uint8: 0 background, class + 1, 255
            ignored.
        prototypes: text or vision prototypes, on the model's device.
        progress: show a progress bar.

    Returns:
        The scores over the confusion matrix of all photos.

    Raises:
        ValueError: there is no photo, or a mask is not of its photo's size.
    """
    raw, refined = [], []
    distance = torch.zeros((), dtype=torch.float64)
    objects = 0
    for photo, mask in tqdm(photos, desc="score", unit="photo", disable=not progress):
        cams = photo_cams(model, photo, prototypes)
        known = (photo.classes, photo.size, mask, prototypes.num_foreground)
        raw.append(seed_confusion(cams.raw, *known, RAW_POWERS))
        refined.append(seed_confusion(cams.refined, *known, REFINED_POWERS))
        on_grid = mask_on_grid(mask, photo.tokens.grid)
        is_object = (on_grid > 0) & (on_grid != IGNORE_INDEX)
        anchors = prototypes.rows[(on_grid[is_object] - 1).to(prototypes.rows.device)]
        cosines = F.cosine_similarity(photo.features[is_object.to(anchors.device)], anchors)
        distance += (1 - cosines).sum(dtype=torch.float64).cpu()
        objects += len(cosines)
    if not raw:
        raise InputError("photos is empty: scores need at least one photo")
    of_raw, of_refined = torch.stack(raw), torch.stack(refined)
    raw_power, raw_scores = scores_by_power(RAW_POWERS, of_raw.sum(dim=0))
    refined_power, refined_scores = scores_by_power(REFINED_POWERS, of_refined.sum(dim=0))
    return SeedScores(
        raw_scores[raw_power].miou,
        refined_scores[refined_power].miou,
        raw_power,
        refined_power,
        float(distance / objects),
        iou_counts(of_raw[:, RAW_POWERS.index(raw_power)]),
        iou_counts(of_refined[:, REFINED_POWERS.index(refined_power)]),
    )
