"""Stage ``evaluate``: seed mIoU raw and refined, pseudo-mask mIoU, gap."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.scores import (
    IGNORE_INDEX,
    RAW_POWERS,
    REFINED_POWERS,
    SeedMeter,
    mask_on_grid,
)
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, read_cams, read_seeds
from vpl_plugin.adapters.clip_es.stages.cams import cams_file
from vpl_plugin.adapters.clip_es.stages.seeds import seeds_file
from vpl_plugin.adapters.clip_es.stages.settings import PROTOTYPES, TEXT_PROTOTYPES, Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.prototype_files import load_prototypes
from vpl_plugin.adapters.run_folder import settings_of
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.localization.evaluation import SegmentationMeter
from vpl_plugin.localization.mask_files import read_mask

__all__ = ["run_evaluate"]

logger = logging.getLogger(__name__)


def run_evaluate(
    photos: PhotoSet, settings: Settings, failures: dict[Path, str]
) -> dict[str, Any] | None:
    """Scores what the stages wrote, against the set's ground truth, and writes a JSON file.

    Pseudo-masks are scored twice: "labels" counts every pixel after the CRF, as CLIP-ES's own
    figures do; "masks" counts only those the pseudo-mask keeps, and "kept" is their share.

    The gap is the mean of 1 - cos(x, w_c) over the object pixels x that the seeds kept, with w_c
    the prototype of their ground-truth class.

    Args:
        photos: the set.
        settings: of the run.
        failures: gets the files that are missing or broken.

    Returns:
        The figures, or None where the set has no ground truth.

    Raises:
        FileNotFoundError: there are no CAMs at all, or not one photo has both CAMs and a mask.
        OSError: the file cannot be written.
    """
    made_by = settings_of(settings.cams, "cams")
    if photos.photos and all(item.mask is None for item in photos.photos):
        logger.info("no ground truth, so nothing to score")
        return None
    scores = _Scores(len(photos.names.labels), _prototypes(settings))
    for item in tqdm(photos.photos, desc="evaluate", unit="photo"):
        try:
            scores.add(item, settings)
        except FileNotFoundError as error:
            failures.setdefault(item.photo, f"not scored: there is no {error.filename}")
        except ValueError as error:
            failures.setdefault(item.photo, f"not scored: {error}")
    if not scores.photos:
        raise FileNotFoundError(f"not one photo has both CAMs in {settings.cams} and a mask")
    figures = {"cams": made_by, **scores.figures(photos.names.labels)}
    with whole_file(settings.scores) as part:
        part.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _prototypes(settings: Settings) -> Tensor | None:
    named = {
        "text": settings.seeds / TEXT_PROTOTYPES,
        "vision": settings.learned / PROTOTYPES,
    }
    file = named.get(settings.prototypes, Path(settings.prototypes))
    return load_prototypes(file)[0] if file.exists() else None


class _Scores:
    """Adds up what is known of each photo."""

    def __init__(self, classes: int, prototypes: Tensor | None) -> None:
        self.photos = 0
        self.masks = 0
        self._raw = SeedMeter(classes, RAW_POWERS)
        self._refined = SeedMeter(classes, REFINED_POWERS)
        self._labels = SegmentationMeter(classes + 1)
        self._masks = SegmentationMeter(classes + 1)
        self._kept = self._pixels = 0
        self._prototypes = prototypes
        self._gap = 0.0
        self._objects = 0

    def add(self, item: SetPhoto, settings: Settings) -> None:
        """Adds a photo; nothing of it counts where a file is missing or does not fit."""
        if item.mask is None:
            raise ValueError("it has no ground truth")
        cams = read_cams(cams_file(settings, item.name))
        truth = read_mask(item.mask)
        labels = mask = None
        if settings.masks.exists():
            labels = read_mask(settings.labels / f"{item.name}.png")
            mask = read_mask(settings.masks / f"{item.name}.png")
        for held in (labels, mask, np.empty(cams.size)):
            if held is not None and held.shape != truth.shape:
                raise ValueError(
                    f"{item.mask} is of size {truth.shape}, its CAMs are of a photo of {cams.size}"
                )
        wrong = truth[(truth > self._labels.num_classes - 1) & (truth != IGNORE_INDEX)]
        if wrong.size:
            raise ValueError(f"{item.mask} has the label {wrong[0]}, which no class has")
        for meter, maps in ((self._raw, cams.raw), (self._refined, cams.refined)):
            meter.update(maps, cams.classes, cams.size, torch.from_numpy(truth))
        if labels is not None and mask is not None:
            self._labels.update(labels, truth)
            unsure = mask == IGNORE_INDEX
            self._masks.update(labels, np.where(unsure, IGNORE_INDEX, truth))
            counted = truth != IGNORE_INDEX
            self._kept += int((counted & ~unsure).sum())
            self._pixels += int(counted.sum())
            self.masks += 1
        seeds = seeds_file(settings, item.name)
        if self._prototypes is not None and seeds.exists():
            self._add_gap(read_seeds(seeds), truth, self._prototypes)
        self.photos += 1

    def figures(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """All figures, in [0, 1] where they are shares."""
        found: dict[str, Any] = {"photos": self.photos}
        for name, meter in (("raw", self._raw), ("refined", self._refined)):
            best, by_power = meter.compute()
            found[name] = {
                "miou": by_power[best].miou,
                "power": best,
                "by_power": {str(power): scores.miou for power, scores in by_power.items()},
                "per_class": _named(by_power[best].per_class_iou, labels),
            }
        if self.masks:
            of_labels = self._labels.compute()
            found["pseudo_masks"] = {
                "labels": of_labels.miou,
                "masks": self._masks.compute().miou if self._kept else None,
                "kept": self._kept / self._pixels,
                "per_class": _named(of_labels.per_class_iou, labels),
            }
        found["gap"] = self._gap / self._objects if self._objects else None
        return found

    def _add_gap(self, seeds: StoredSeeds, truth: np.ndarray, prototypes: Tensor) -> None:
        labels = mask_on_grid(truth, seeds.grid)[torch.from_numpy(seeds.pixels).long()]
        is_object = (labels > 0) & (labels != IGNORE_INDEX)
        features = torch.from_numpy(seeds.features).float()[is_object]
        cosine = torch.nn.functional.cosine_similarity(features, prototypes[labels[is_object] - 1])
        self._gap += float((1 - cosine).sum(dtype=torch.float64))
        self._objects += len(cosine)


def _named(per_class: Tensor, labels: tuple[str, ...]) -> dict[str, float | None]:
    """IoU by name; JSON has no NaN."""
    values = zip(("background", *labels), per_class.tolist(), strict=True)
    return {label: None if value != value else value for label, value in values}
