"""Stage ``evaluate``: seed mIoU raw and refined, pseudo-mask mIoU, gap."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.scores import (
    RAW_POWERS,
    REFINED_POWERS,
    mask_on_grid,
    scores_by_power,
    seed_confusion,
)
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, read_cams, read_seeds
from vpl_plugin.adapters.photos.photo_set import SetPhoto, frequent_reasons
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.localization.bootstrap import iou_counts
from vpl_plugin.localization.evaluation import confusion_matrix, segmentation_scores
from vpl_plugin.localization.ground_truth import check_shows_classes, read_truth
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask
from vpl_plugin.localization.photo_counts import PHOTO_COUNTS, write_photo_counts
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results, digest, made_from
from vpl_plugin.worker_pool import run_jobs

__all__ = ["Evaluate", "evaluate", "scored_inputs"]

logger = logging.getLogger(__name__)

PHOTOS_AT_ONCE = 16


class Evaluate(Stage):
    """Seed mIoU raw and refined, pseudo-mask mIoU, gap: evaluation.json.

    Beside it stands what mIoU needs of each photo (photo_counts.npz), for ``vpl compare``.

    Pseudo-masks are scored twice: "labels" counts every pixel after the CRF, as CLIP-ES's own
    figures do; "masks" counts only those the pseudo-mask keeps, and "kept" is their share.

    The gap is the mean of 1 - cos(x, w_c) over the object pixels x that the seeds kept, with w_c
    the prototype of their ground-truth class.
    """

    name = "evaluate"
    once = True

    def run(self, run: Run[Settings]) -> str | None:
        """Scores what the stages wrote against the set's ground truth, where it has one.

        Returns:
            The figures in words.

        Raises:
            FileNotFoundError: there are no CAMs at all, or not one photo has both CAMs and a mask
                that fits.
            ValueError: not one mask shows a class, which leaves the background's IoU alone.
        """
        figures = evaluate(run)
        return None if figures is None else _in_words(figures, run.settings)

    def estimate(self, run: Run[Settings], costs: Costs) -> Estimate:
        """All photos, quickly."""
        return Estimate(self.name, len(run.photos.photos), 0.0, None)


def evaluate(run: Run[Settings]) -> dict[str, Any] | None:
    """What :class:`Evaluate` does; the figures, or None where the set has no ground truth."""
    photos, settings, classes = run.photos, run.settings, run.photos.names.labels
    made_by = Results(settings.cams).settings("cams")
    if photos.photos and all(item.mask is None for item in photos.photos):
        logger.info("no ground truth, so nothing to score")
        return None
    check_shows_classes((item.mask for item in photos.photos if item.mask), len(classes))
    prototypes = settings.prototypes_file
    rows = Prototypes.load(prototypes).rows if prototypes.exists() else None
    of_set = _Counts.none(len(classes))
    unscored: dict[Path, str] = {}
    groups = [
        _Group(photos.photos[start : start + PHOTOS_AT_ONCE], settings, len(classes), rows)
        for start in range(0, len(photos.photos), PHOTOS_AT_ONCE)
    ]
    with tqdm(total=len(photos.photos), desc="evaluate", unit="photo") as progress:
        for group, result in run_jobs(_count_group, groups, settings.workers, run.pool):
            counts, why = result()
            of_set = of_set.plus(counts)
            unscored |= why
            for path, message in why.items():
                run.failures.setdefault(path, message)
            progress.update(len(group.photos))
    if not of_set.photos:
        raise FileNotFoundError(
            f"not one photo has both CAMs in {settings.cams} and a mask that fits:"
            f" {frequent_reasons(unscored)}"
        )
    if not of_set.raw[0, 1:].any():
        # The masks that do show a class are among those left out.
        scored = (item.mask for item in photos.photos if item.mask and item.photo not in unscored)
        check_shows_classes(scored, len(classes))
    figures = {"cams": made_by, "inputs": scored_inputs(run), **_figures(of_set, classes)}
    # Groups are done in any order.
    of_set = of_set._replace(of_photos=tuple(sorted(of_set.of_photos, key=itemgetter(0))))
    kinds = _kinds(of_set, figures["refined"]["power"])
    names = [name for name, _ in of_set.of_photos]
    write_photo_counts(settings.scores.with_name(PHOTO_COUNTS), names, kinds)
    with whole_file(settings.scores) as part:
        part.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def scored_inputs(run: Run[Settings]) -> str:
    """What identifies the files that the figures are taken of."""
    cams, labels = Results(run.settings.cams), Results(run.settings.labels)
    return digest(
        *(
            (item.name, made_from(cams.file(item.name)), made_from(labels.file(item.name, ".png")))
            for item in run.photos.photos
        )
    )


def _in_words(figures: dict[str, Any], settings: Settings) -> str:
    lines = [f"{settings.prototypes} prototypes, {figures['photos']} photos"]
    for name in ("raw", "refined"):
        scores = figures[name]
        lines.append(f"  seed mIoU {name}: {100 * scores['miou']:.1f} (power {scores['power']:g})")
    if "pseudo_masks" in figures:
        masks = figures["pseudo_masks"]
        lines.append(
            f"  pseudo-mask mIoU: {100 * masks['labels']:.1f};"
            f" {100 * masks['kept']:.0f} % of the pixels kept"
        )
    if figures["gap"] is not None:
        lines.append(f"  gap: {figures['gap']:.3f}")
    return "\n".join([*lines, f"  {settings.scores}"])


class _Group(NamedTuple):
    """Photos that one process scores in one go."""

    photos: Sequence[SetPhoto]
    settings: Settings
    num_foreground: int
    prototypes: Tensor | None


class _Counts(NamedTuple):
    """What adds up over photos; C labels with the background.

    Attributes:
        raw: (powers, C, C) confusion of the raw CAMs.
        refined: the same after the attention affinity.
        labels: (C, C) confusion after the CRF.
        masks: the same where the pseudo-mask keeps a pixel.
        photos: how many.
        masked: how many of them have pseudo-masks.
        kept: pixels that the pseudo-masks keep.
        pixels: pixels of photos with pseudo-masks.
        objects: object pixels that the seeds kept.
        gaps: the summed gap of those, a number per photo: as floats do not add up alike in every
            order, they are summed exactly, at the end.
        of_photos: name and (powers + 1, 3, C) int32 counts of each photo: of the refined CAMs, then
            of the labels after the CRF.
    """

    raw: Tensor
    refined: Tensor
    labels: Tensor
    masks: Tensor
    photos: int
    masked: int
    kept: int
    pixels: int
    objects: int
    gaps: tuple[float, ...]
    of_photos: tuple[tuple[str, Tensor], ...]

    @classmethod
    def none(cls, num_foreground: int) -> _Counts:
        """Of no photo."""
        empty = torch.zeros(num_foreground + 1, num_foreground + 1, dtype=torch.int64)
        raw, refined = (
            empty.expand(len(powers), -1, -1) for powers in (RAW_POWERS, REFINED_POWERS)
        )
        return cls(raw, refined, empty, empty, 0, 0, 0, 0, 0, (), ())

    def plus(self, other: _Counts) -> _Counts:
        """Of both."""
        # Numbers, tensors and tuples all know +.
        mine: Iterable[Any] = self
        return _Counts(*(a + b for a, b in zip(mine, other, strict=True)))


def _count_group(group: _Group) -> tuple[_Counts, dict[Path, str]]:
    """The counts of photos, and why some do not count."""
    counts = _Counts.none(group.num_foreground)
    failures = {}
    for item in group.photos:
        try:
            counts = counts.plus(
                _count_photo(item, group.settings, group.num_foreground, group.prototypes)
            )
        except FileNotFoundError as error:
            failures[item.photo] = f"not scored: there is no {error.filename}"
        except InputError as error:
            failures[item.photo] = f"not scored: {error}"
    return counts, failures


def _count_photo(
    item: SetPhoto, settings: Settings, num_foreground: int, prototypes: Tensor | None
) -> _Counts:
    """The counts of a photo; raises where a file is missing or does not fit."""
    if item.mask is None:
        raise InputError("it has no ground truth")
    file = Results(settings.cams).file(item.name)
    cams = read_cams(file)
    truth = read_truth(item.mask, num_foreground, cams.size)
    labels = mask = None
    if settings.masks.exists():
        label_file = Results(settings.labels).file(item.name, ".png")
        labels = read_mask(label_file)
        mask = read_mask(Results(settings.masks).file(item.name, ".png"))
        if made_from(label_file) not in (None, made_from(file)):
            raise InputError("its pseudo-mask is of earlier CAMs: run the stage 'masks' again")
    for held in (labels, mask):
        if held is not None and held.shape != truth.shape:
            raise InputError(f"its pseudo-mask is of size {held.shape}, the photo of {cams.size}")
    known = (cams.classes, cams.size, truth, num_foreground)
    counts = _Counts.none(num_foreground)._replace(
        raw=seed_confusion(cams.raw, *known, RAW_POWERS),
        refined=seed_confusion(cams.refined, *known, REFINED_POWERS),
        photos=1,
    )
    if labels is not None and mask is not None:
        counted, sure = truth != IGNORE_INDEX, mask != IGNORE_INDEX
        counts = counts._replace(
            labels=confusion_matrix(labels, truth, num_foreground + 1),
            masks=confusion_matrix(labels, np.where(sure, truth, IGNORE_INDEX), num_foreground + 1),
            masked=1,
            kept=int((counted & sure).sum()),
            pixels=int(counted.sum()),
        )
    of_photo = iou_counts(torch.cat([counts.refined, counts.labels[None]])).int()
    counts = counts._replace(of_photos=((item.name, of_photo),))
    seeds = Results(settings.seeds).file(item.name)
    if prototypes is not None and seeds.exists():
        distances = _gaps(read_seeds(seeds), truth, prototypes)
        counts = counts._replace(
            objects=len(distances), gaps=(float(distances.sum(dtype=torch.float64)),)
        )
    return counts


def _gaps(seeds: StoredSeeds, truth: np.ndarray, prototypes: Tensor) -> Tensor:
    """The cosine distance of each object pixel to the prototype of its class."""
    labels = mask_on_grid(truth, seeds.grid)[torch.from_numpy(seeds.pixels).long()]
    is_object = (labels > 0) & (labels != IGNORE_INDEX)
    features = torch.from_numpy(seeds.features).float()[is_object]
    return 1 - torch.nn.functional.cosine_similarity(features, prototypes[labels[is_object] - 1])


def _figures(counts: _Counts, labels: tuple[str, ...]) -> dict[str, Any]:
    """All figures, in [0, 1] where they are shares."""
    found: dict[str, Any] = {"photos": counts.photos}
    for name, powers, confusion in (
        ("raw", RAW_POWERS, counts.raw),
        ("refined", REFINED_POWERS, counts.refined),
    ):
        best, by_power = scores_by_power(powers, confusion)
        found[name] = {
            "miou": by_power[best].miou,
            "power": best,
            "by_power": {str(power): scores.miou for power, scores in by_power.items()},
            "per_class": _named(by_power[best].per_class_iou, labels),
        }
    if counts.masked:
        of_labels = segmentation_scores(counts.labels)
        found["pseudo_masks"] = {
            "labels": of_labels.miou,
            "masks": segmentation_scores(counts.masks).miou if counts.kept else None,
            "kept": counts.kept / counts.pixels,
            "per_class": _named(of_labels.per_class_iou, labels),
        }
    found["gap"] = math.fsum(counts.gaps) / counts.objects if counts.objects else None
    return found


def _kinds(counts: _Counts, refined_power: float) -> dict[str, Tensor]:
    """(photos, 3, C) of the refined CAMs at that power, and of the pseudo-masks' labels."""
    of_photos = torch.stack([of_photo for _, of_photo in counts.of_photos])
    kinds = {"refined": of_photos[:, REFINED_POWERS.index(refined_power)]}
    # Photos without a pseudo-mask would count as wholly missed.
    return kinds | ({"labels": of_photos[:, -1]} if counts.masked == counts.photos else {})


def _named(per_class: Tensor, labels: tuple[str, ...]) -> dict[str, float | None]:
    """IoU by name; JSON has no NaN."""
    values = zip(("background", *labels), per_class.tolist(), strict=True)
    return {label: None if value != value else value for label, value in values}
