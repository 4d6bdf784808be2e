"""What a run would take: photos left, disk, time, from headers and from one photo timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es.cams import batch_cams
from vpl_plugin.adapters.clip_es.stages.cams import cams_file
from vpl_plugin.adapters.clip_es.stages.photo_batches import photo_grid
from vpl_plugin.adapters.clip_es.stages.seeds import seeds_file
from vpl_plugin.adapters.clip_es.stages.settings import PROTOTYPES, Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.preprocess import BrokenPhotoError
from vpl_plugin.localization.crf import dense_crf

__all__ = ["Estimate", "estimate", "seconds_a_photo"]

HEADERS = 32
# Passes over the pixels that "apgd" takes to its default tolerance.
TYPICAL_PASSES = 40
TIMED_PIXELS = 4096


class Estimate(NamedTuple):
    """What one stage would take.

    Attributes:
        stage: its name.
        photos: how many are left; for "learn" how many it reads.
        bytes: about how much disk its new files take.
        seconds: about how long; None for "evaluate", which is quick.
    """

    stage: str
    photos: int
    bytes: float
    seconds: float | None


def estimate(
    model: ClipModel, photos: PhotoSet, settings: Settings, stages: Sequence[str]
) -> list[Estimate]:
    """Estimates the stages; writes nothing.

    Args:
        model: the frozen CLIP model, on the device it would run on.
        photos: the set.
        settings: of the run.
        stages: their names.

    Returns:
        An estimate a stage.
    """
    sample = _sample(photos.photos, model.patch_size)
    pixels = float(np.mean([grid[0] * grid[1] for _, grid in sample])) if sample else 0.0
    kept = pixels if settings.pixels_per_photo is None else min(pixels, settings.pixels_per_photo)
    classes = float(np.mean([len(item.classes) for item, _ in sample])) if sample else 0.0
    area = pixels * model.patch_size**2
    prototypes = len(photos.names.labels) + len(photos.names.background)
    encoding = _time_encoder(model, sample, photos) if {"seeds", "cams"} & {*stages} else 0.0
    crf = _time_crf(pixels, classes, model.patch_size) if "masks" in stages else 0.0

    def left(file_of: Path, name: str) -> bool:
        return not (file_of / name).exists()

    rows = []
    for stage in stages:
        if stage == "seeds":
            count = sum(not seeds_file(settings, item.name).exists() for item in photos.photos)
            rows.append(
                Estimate(stage, count, count * kept * (2 * model.embed_dim + 6), count * encoding)
            )
        elif stage == "learn":
            done = (settings.learned / PROTOTYPES).exists()
            count = 0 if done else len(photos.photos)
            passes = min(TYPICAL_PASSES, settings.iterations)
            seconds = count * kept * passes * _time_pass(model, prototypes)
            rows.append(Estimate(stage, count, 4 * prototypes * model.embed_dim, seconds))
        elif stage == "cams":
            count = sum(not cams_file(settings, item.name).exists() for item in photos.photos)
            size = classes * pixels * 8
            if settings.upstream_files:
                size += classes * area * 2
            rows.append(Estimate(stage, count, count * size, count * encoding))
        elif stage == "masks":
            count = sum(left(settings.masks, f"{item.name}.png") for item in photos.photos)
            # Two palette PNGs, which take about a fortieth of a byte a pixel each.
            seconds = count * crf / settings.workers
            rows.append(Estimate(stage, count, count * area / 20, seconds))
        else:
            rows.append(Estimate(stage, len(photos.photos), 0.0, None))
    return rows


def seconds_a_photo(model: ClipModel, photos: PhotoSet) -> float:
    """About how long a photo of the set takes through the encoder, GradCAM and affinity."""
    return _time_encoder(model, _sample(photos.photos, model.patch_size), photos)


def _sample(photos: Sequence[SetPhoto], patch_size: int) -> list[tuple[SetPhoto, tuple[int, int]]]:
    """Some photos from all over the set, with their grids."""
    found = []
    for item in photos[:: max(1, len(photos) // HEADERS)]:
        try:
            found.append((item, photo_grid(item.photo, patch_size)))
        except (OSError, BrokenPhotoError):
            continue
    return found


def _time_encoder(
    model: ClipModel, sample: Sequence[tuple[SetPhoto, tuple[int, int]]], photos: PhotoSet
) -> float:
    """Seconds for the median photo, as a batch of one."""
    if not sample:
        return 0.0
    by_size = sorted(sample, key=lambda entry: entry[1][0] * entry[1][1])
    item, grid = by_size[len(by_size) // 2]
    shape = (1, 3, grid[0] * model.patch_size, grid[1] * model.patch_size)
    blank = torch.zeros(shape, device=model.device)
    rows = len(photos.names.labels) + len(photos.names.background)
    prototypes = torch.nn.functional.normalize(
        torch.randn(rows, model.embed_dim, generator=torch.Generator().manual_seed(0)), dim=1
    ).to(model.device)
    seconds = 0.0
    # The first run warms up.
    for _ in range(2):
        start = time.perf_counter()
        cams = batch_cams(
            model,
            blank,
            [item.classes],
            prototypes,
            num_foreground=len(photos.names.labels),
            box_threshold=photos.names.box_threshold,
        )
        cams[0][0].refined.cpu()
        seconds = time.perf_counter() - start
    return seconds


def _time_crf(pixels: float, classes: float, patch_size: int) -> float:
    """Seconds for one photo of the mean size, in one process."""
    side = max(16, int(pixels**0.5 * patch_size))
    generator = np.random.default_rng(0)
    # Smooth, with a sensor's noise: pure noise would fill a far larger lattice than photos do.
    regions = Image.fromarray(generator.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    smooth = np.asarray(regions.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    photo = (smooth + 3 * generator.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8)
    scores = generator.random((max(2, round(classes) + 1), side, side), np.float32)
    # The first run builds what is kept between photos of a size.
    dense_crf(photo, scores, iterations=1)
    start = time.perf_counter()
    dense_crf(photo, scores)
    return time.perf_counter() - start


def _time_pass(model: ClipModel, prototypes: int) -> float:
    """Seconds a pixel and pass."""
    x = torch.randn(TIMED_PIXELS, model.embed_dim, device=model.device)
    W = torch.randn(prototypes, model.embed_dim, device=model.device)
    start = time.perf_counter()
    ((x @ W.T).softmax(dim=1).T @ x).cpu()
    # Reading the file and its targets cost about as much again.
    return 2 * (time.perf_counter() - start) / TIMED_PIXELS
