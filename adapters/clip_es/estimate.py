"""What a run would take: from the headers of some photos, and from one photo timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es.cams import token_cams
from vpl_plugin.adapters.clip_es.kept_tokens import kept_bytes
from vpl_plugin.adapters.clip_es.photo_grid import photo_grid
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.preprocess import BrokenPhotoError
from vpl_plugin.localization.crf import dense_crf
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

__all__ = ["Costs"]

HEADERS = 32
TIMED_PIXELS = 4096


class Costs:
    """What photos of a run cost; each figure is measured when it is first asked for.

    Args:
        run: with the model, on the device it would run on.
    """

    def __init__(self, run: Run[Settings]) -> None:
        self._run = run
        self._model = run.encoder
        self._sample = _sample(run.photos.photos, self._model.patch_size)
        self._kept: set[str] = set()

    @cached_property
    def pixels(self) -> float:
        """Patches per photo, on average."""
        grids = [grid[0] * grid[1] for _, grid in self._sample]
        return float(np.mean(grids)) if grids else 0.0

    @property
    def kept_pixels(self) -> float:
        """How many of them the seeds keep."""
        kept = self._run.settings.pixels_per_photo
        return self.pixels if kept is None else min(self.pixels, kept)

    @cached_property
    def classes(self) -> float:
        """Classes per photo, on average."""
        counts = [len(item.classes) for item, _ in self._sample]
        return float(np.mean(counts)) if counts else 0.0

    @property
    def area(self) -> float:
        """Pixels per photo, on average."""
        return self.pixels * self._model.patch_size**2

    @cached_property
    def token_bytes(self) -> float:
        """What the kept tokens of a photo take, on average."""
        width, dtype = self._model.token_width, self._model.dtype
        # Not of the mean size: it grows with the square of the patches.
        sizes = [kept_bytes(grid[0] * grid[1], width, dtype) for _, grid in self._sample]
        return float(np.mean(sizes)) if sizes else 0.0

    @property
    def rows(self) -> int:
        """How many prototypes there are."""
        names = self._run.photos.names
        return len(names.labels) + len(names.background)

    @cached_property
    def seconds_per_photo(self) -> tuple[float, float]:
        """Through all blocks but the last; through what follows, GradCAM and affinity included."""
        return _time_photo(self._model, self._sample, self._run.photos)

    def localisation(self, photos: Sequence[SetPhoto]) -> tuple[float, float]:
        """What a stage takes to localise these photos.

        Returns:
            Bytes of the tokens that it keeps, and seconds. What an earlier stage of this estimate
            keeps is read.
        """
        encode, localise = self.seconds_per_photo
        names = {item.name for item in photos}
        if not self._run.settings.keep_tokens:
            return 0.0, len(names) * (encode + localise)
        kept = Results(self._run.settings.tokens)
        new = {name for name in names - self._kept if not kept.file(name).exists()}
        self._kept |= new
        return len(new) * self.token_bytes, len(new) * encode + len(names) * localise

    @cached_property
    def crf_seconds_per_photo(self) -> float:
        """Of the dense CRF, in one process."""
        if not self._run.settings.crf:
            return 0.0
        return _time_crf(self.pixels, self.classes, self._model.patch_size)

    @cached_property
    def seconds_per_pixel_and_pass(self) -> float:
        """Of the solver."""
        return _time_pass(self._model, self.rows)


def _sample(photos: Sequence[SetPhoto], patch_size: int) -> list[tuple[SetPhoto, tuple[int, int]]]:
    """Some photos from all over the set, with their grids."""
    found = []
    for item in photos[:: max(1, len(photos) // HEADERS)]:
        try:
            found.append((item, photo_grid(item.photo, patch_size)))
        except (OSError, BrokenPhotoError):
            continue
    return found


def _time_photo(
    model: ClipModel, sample: Sequence[tuple[SetPhoto, tuple[int, int]]], photos: PhotoSet
) -> tuple[float, float]:
    """Seconds for the median photo, as a batch of one: see ``Costs.seconds_per_photo``."""
    if not sample:
        return 0.0, 0.0
    by_size = sorted(sample, key=lambda entry: entry[1][0] * entry[1][1])
    item, grid = by_size[len(by_size) // 2]
    shape = (1, 3, grid[0] * model.patch_size, grid[1] * model.patch_size)
    blank = torch.zeros(shape, device=model.device)
    rows = len(photos.names.labels) + len(photos.names.background)
    generator = torch.Generator().manual_seed(0)
    prototypes = Prototypes(
        torch.randn(rows, model.embed_dim, generator=generator), photos.names.labels
    ).to(model.device)
    encoded = localised = 0.0
    # The first run warms up.
    for _ in range(2):
        start = time.perf_counter()
        tokens = model.tokens_before_last_block(blank)
        tokens.tokens.cpu()
        encoded = time.perf_counter() - start
        cams = token_cams(
            model,
            tokens,
            [item.classes],
            prototypes,
            box_threshold=photos.names.box_threshold,
        )
        cams[0][0].refined.cpu()
        localised = time.perf_counter() - start - encoded
    return encoded, localised


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
    """Seconds per pixel and pass."""
    x = torch.randn(TIMED_PIXELS, model.embed_dim, device=model.device)
    W = torch.randn(prototypes, model.embed_dim, device=model.device)
    start = time.perf_counter()
    ((x @ W.T).softmax(dim=1).T @ x).cpu()
    # Reading the file and its targets cost about as much again.
    return 2 * (time.perf_counter() - start) / TIMED_PIXELS
