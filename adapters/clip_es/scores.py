"""How good CAMs and prototypes are on photos with masks: seed mIoU, and the modality gap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import photo_cams
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.core.gap import cosine_gap
from vpl_plugin.localization.evaluation import (
    SegmentationMeter,
    SegmentationScores,
    segmentation_scores,
)
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.localization.seeds import background_score, resize_cams

__all__ = ["SeedMeter", "SeedScores", "mask_on_grid", "scores_by_power", "seed_scores"]

# The powers of the background score that are tried; the best one counts, as in CLIP-ES.
RAW_POWERS = (1.0, 2.0, 3.0)
REFINED_POWERS = (1.0, 1.5, 2.0)


class SeedScores(NamedTuple):
    """Figures of one set of prototypes on one set of photos.

    Attributes:
        raw: mIoU of the raw CAMs' label maps, in [0, 1], at the best background power.
        refined: the same after the attention affinity.
        raw_power: that power.
        refined_power: that power.
        gap: mean cosine gap of the object pixels to the prototype of their class, in [0, 2].
    """

    raw: float
    refined: float
    raw_power: float
    refined_power: float
    gap: float


class SeedMeter:
    """Adds up the confusion matrices of CAMs' label maps, one for each background power.

    Args:
        num_foreground: number of classes.
        powers: of the background score, tried side by side.
    """

    def __init__(self, num_foreground: int, powers: Sequence[float]) -> None:
        self._meters = {power: SegmentationMeter(num_foreground + 1) for power in powers}

    def update(
        self, cams: Tensor, classes: Sequence[int], size: tuple[int, int], truth: Tensor
    ) -> None:
        """Counts a photo: CAMs (K, h, w) of its classes, its size, its mask (H, W)."""
        # As cams_to_labels does, but the best class is looked up once for all powers.
        score, best = resize_cams(cams, size).cpu().max(dim=0)
        labels = (torch.tensor(classes) + 1)[best]
        for power, meter in self._meters.items():
            is_background = background_score(score[None], power)[0] >= score
            meter.update(labels.masked_fill(is_background, 0), truth)

    def confusion(self) -> Tensor:
        """(powers, C + 1, C + 1) counts so far."""
        return torch.stack([meter.confusion() for meter in self._meters.values()])

    def compute(self) -> tuple[float, dict[float, SegmentationScores]]:
        """The power of the best mIoU, and the scores at every power."""
        return scores_by_power(self._meters, self.confusion())


def scores_by_power(
    powers: Iterable[float], confusion: Tensor
) -> tuple[float, dict[float, SegmentationScores]]:
    """The power of the best mIoU, and the scores at every power, of :meth:`SeedMeter.confusion`."""
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
    prototypes: Tensor,
    *,
    num_foreground: int,
    temperature: float | None = None,
    progress: bool = False,
) -> SeedScores:
    """Scores the CAMs that prototypes give on photos with masks, labels given.

    Args:
        model: the model that encoded the photos.
        photos: pairs of an encoded photo and its mask (H, W) uint8: 0 background, class + 1, 255
            ignored.
        prototypes: (N, D), the foreground rows, then the background's.
        num_foreground: number of foreground rows.
        temperature: of GradCAM's softmax; see :func:`photo_cams`.
        progress: show a progress bar.

    Returns:
        The scores over the confusion matrix of all photos.

    Raises:
        ValueError: there is no photo, or a mask is not of its photo's size.
    """
    raw_meter, refined_meter = (
        SeedMeter(num_foreground, powers) for powers in (RAW_POWERS, REFINED_POWERS)
    )
    features, classes = [], []
    for photo, mask in tqdm(photos, desc="score", unit="photo", disable=not progress):
        cams = photo_cams(
            model, photo, prototypes, num_foreground=num_foreground, temperature=temperature
        )
        truth = torch.tensor(mask)
        raw_meter.update(cams.raw, photo.classes, photo.size, truth)
        refined_meter.update(cams.refined, photo.classes, photo.size, truth)
        on_grid = mask_on_grid(mask, photo.tokens.grid)
        is_object = (on_grid > 0) & (on_grid != IGNORE_INDEX)
        features.append(photo.features.cpu()[is_object])
        classes.append(on_grid[is_object] - 1)
    if not features:
        raise ValueError("photos is empty: scores need at least one photo")
    raw_power, raw = raw_meter.compute()
    refined_power, refined = refined_meter.compute()
    gap = cosine_gap(torch.cat(features), prototypes.cpu(), torch.cat(classes))
    return SeedScores(
        raw[raw_power].miou, refined[refined_power].miou, raw_power, refined_power, float(gap)
    )
