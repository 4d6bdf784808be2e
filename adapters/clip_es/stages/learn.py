"""Stage ``learn``: vision prototypes from the seeds on disk, a chunk in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.learning import learned_prototypes
from vpl_plugin.adapters.clip_es.settings import PROTOTYPES, TEXT_PROTOTYPES, Settings
from vpl_plugin.adapters.clip_es.stage_files import read_seeds
from vpl_plugin.adapters.clip_es.stages.inputs import is_made, note_photos, stage_inputs
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.core.distributed import sum_over_ranks
from vpl_plugin.core.pixels import PixelChunk
from vpl_plugin.core.prototypes import Iterate, fit_vision_prototypes
from vpl_plugin.errors import InputError
from vpl_plugin.localization.seeds import targets_from_seeds
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

__all__ = ["Learn", "SeedStream"]

logger = logging.getLogger(__name__)

TAU_T = 0.01
FILES_AT_ONCE = 64
# Reading takes half the time of a pass; all of VOC's train_aug at 128 pixels a photo fits in here.
HELD_BYTES = 2 * 1024**3
# Over the pixels, that "apgd" takes to its default tolerance.
TYPICAL_PASSES = 40


class SeedStream:
    """A re-iterable of :class:`PixelChunk` over files of seeds.

    Where all of it fits in ``held_bytes`` as the solver takes it, it is made once and kept. Else
    what fits is kept as it is stored, and each pass reads the rest anew.

    Args:
        files: of the stage ``seeds``.
        text: text prototypes; chunks go to their device.
        workers: threads that read.
        held_bytes: the most memory that is kept from one pass to the next.
    """

    def __init__(
        self,
        files: Sequence[Path],
        text: Prototypes,
        *,
        workers: int = 1,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self.files = list(files)
        self._text = text
        self._workers = workers
        self._room = held_bytes
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._ready: dict[int, PixelChunk] = {}
        self._all_fit: bool | None = None

    def __iter__(self) -> Iterator[PixelChunk]:
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, len(self.files), FILES_AT_ONCE):
                if start in self._ready:
                    yield self._ready[start]
                    continue
                chunk = self._chunk(*self._read(start, pool))
                if self._all_fit:
                    self._ready[start] = chunk
                yield chunk

    def _chunk(self, features: np.ndarray, seeds: np.ndarray) -> PixelChunk:
        """Unit features and their targets, as the solver takes them."""
        x, claimed = (
            torch.from_numpy(array).to(self._text.rows.device) for array in (features, seeds)
        )
        x = torch.nn.functional.normalize(x.float(), dim=1)
        return PixelChunk(x, targets_from_seeds(claimed.long(), x, self._text, TAU_T))

    def _read(self, start: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
        """Features and seeds of the files from ``start`` on, as they are stored."""
        if start in self._held:
            return self._held[start]
        stored = list(pool.map(read_seeds, self.files[start : start + FILES_AT_ONCE]))
        features = np.concatenate([item.features for item in stored])
        seeds = np.concatenate([item.seeds for item in stored])
        if self._all_fit is None:
            # The first files show the size of all: float32 features, and targets beside them.
            numbers = len(features) * (features.shape[1] + len(self._text.rows))
            self._all_fit = 4 * numbers * len(self.files) / len(stored) <= self._room
        if not self._all_fit and features.nbytes + seeds.nbytes <= self._room:
            self._room -= features.nbytes + seeds.nbytes
            self._held[start] = features, seeds
        return features, seeds


class Learn(Stage):
    """Alg. 1 of the VPL paper on the seeds of all photos (Eq. 3-11)."""

    name = "learn"

    def is_needed(self, settings: Settings) -> bool:
        """Only where the CAMs are to be made from what is learned."""
        return settings.learns

    def run(self, run: Run[Settings]) -> None:
        """Learns vision prototypes from the seeds, unless they are there.

        With several processes each reads its share of the files, the sums go through
        ``torch.distributed``, and the first process writes.
        """
        settings = run.settings
        seeds = Results(settings.seeds)
        facts: dict[str, Any] = {
            "seeds": seeds.settings("seeds"),
            "tau_T": TAU_T,
            **settings.facts("tau_I", "anchor", "solver", "iterations", "tolerance"),
        }
        inputs = stage_inputs(run.photos, settings.seeds, seeds.file, "seeds", run.failures)
        Results.claim(settings.learned, facts, alone=run.ranks.alone)
        target = settings.learned / PROTOTYPES
        if is_made(target, inputs, [settings.output / "vision"], run.failures):
            return
        files = list(inputs.values())
        rank, world = run.ranks.rank, run.ranks.world
        # With fewer files than processes each one reads them all.
        share = files[rank::world] if len(files) >= world else files
        text = Prototypes.load(settings.seeds / TEXT_PROTOTYPES).to(run.ranks.device)
        stream = SeedStream(share, text, workers=settings.workers)
        with tqdm(desc=self.name, unit="iteration", disable=rank > 0) as progress:

            def count(_: Iterate) -> None:
                progress.update()

            try:
                fit = fit_vision_prototypes(
                    stream,
                    text.rows,
                    settings.tau_I,
                    anchor=settings.anchor,
                    solver=settings.solver,
                    iterations=settings.iterations,
                    tolerance=settings.tolerance,
                    callback=count,
                    reduce=sum_over_ranks if len(share) < len(files) else None,
                )
            except FloatingPointError as error:
                # The settings that the message names are the user's.
                raise InputError(str(error)) from error
        if rank > 0:
            return
        # Where the photos lay says nothing of the prototypes.
        made_from = {name: fact for name, fact in facts["seeds"].items() if name != "root"}
        facts |= {"seeds": made_from, "photos": len(files)}
        learned = learned_prototypes(text, fit, settings.tau_I, facts)
        note_photos(target, inputs)
        learned.save(target)
        logger.info(
            "prototypes of %d photos: loss %.4f -> %.4f in %d passes (%s)",
            len(files),
            fit.losses[0],
            fit.losses[-1],
            fit.passes,
            fit.stop_reason,
        )

    def estimate(self, run: Run[Settings], costs: Costs) -> Estimate:
        """All photos, unless the prototypes are there."""
        done = (run.settings.learned / PROTOTYPES).exists()
        count = 0 if done else len(run.photos.photos)
        passes = min(TYPICAL_PASSES, run.settings.iterations)
        seconds = count * costs.kept_pixels * passes * costs.seconds_per_pixel_and_pass
        return Estimate(self.name, count, 4 * costs.rows * run.encoder.embed_dim, seconds)
