"""Stage ``learn``: vision prototypes from the seeds on disk, a chunk in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import read_seeds
from vpl_plugin.adapters.clip_es.stages.inputs import is_made, note_photos, stage_inputs
from vpl_plugin.adapters.clip_es.stages.seeds import seeds_file
from vpl_plugin.adapters.clip_es.stages.settings import PROTOTYPES, TEXT_PROTOTYPES, Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.adapters.prototype_files import load_prototypes, save_prototypes
from vpl_plugin.core.distributed import sum_over_ranks
from vpl_plugin.core.pixels import PixelChunk
from vpl_plugin.core.prototypes import Iterate, learn_vision_prototypes
from vpl_plugin.localization.seeds import targets_from_seeds
from vpl_plugin.run_folder import claim_folder, settings_of

__all__ = ["SeedStream", "run_learn"]

logger = logging.getLogger(__name__)

TAU_T = 0.01
FILES_AT_ONCE = 64
# Reading takes half the time of a pass; all of VOC's train_aug at 128 pixels a photo fits in here.
HELD_BYTES = 2 * 1024**3


class SeedStream:
    """A re-iterable of :class:`PixelChunk` over files of seeds.

    Where all of it fits in ``held_bytes`` as the solver takes it, it is made once and kept. Else
    what fits is kept as it is stored, and each pass reads the rest anew.

    Args:
        files: of the stage ``seeds``.
        text_prototypes: (N, D), the foreground rows, then the background's; chunks go to their
            device.
        num_foreground: number of foreground rows.
        workers: threads that read.
        held_bytes: the most memory that is kept from one pass to the next.
    """

    def __init__(
        self,
        files: Sequence[Path],
        text_prototypes: Tensor,
        *,
        num_foreground: int,
        workers: int = 1,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self.files = list(files)
        self._text = text_prototypes
        self._num_foreground = num_foreground
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
        x = torch.from_numpy(features).to(self._text.device).float()
        x = torch.nn.functional.normalize(x, dim=1)
        targets = targets_from_seeds(
            torch.from_numpy(seeds).to(self._text.device).long(),
            x,
            self._text,
            num_foreground=self._num_foreground,
            tau_T=TAU_T,
        )
        return PixelChunk(x, targets)

    def _read(self, start: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
        """Features and seeds of the files from ``start`` on, as they are stored."""
        if start in self._held:
            return self._held[start]
        stored = list(pool.map(read_seeds, self.files[start : start + FILES_AT_ONCE]))
        features = np.concatenate([item.features for item in stored])
        seeds = np.concatenate([item.seeds for item in stored])
        if self._all_fit is None:
            # The first files tell the size of all: float32 features, and targets beside them.
            numbers = len(features) * (features.shape[1] + len(self._text))
            self._all_fit = 4 * numbers * len(self.files) / len(stored) <= self._room
        if not self._all_fit and features.nbytes + seeds.nbytes <= self._room:
            self._room -= features.nbytes + seeds.nbytes
            self._held[start] = features, seeds
        return features, seeds


def run_learn(
    photos: PhotoSet,
    settings: Settings,
    failures: dict[Path, str],
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Learns vision prototypes from the seeds of the set's photos, unless they are there.

    With a shard of several processes each reads its share of the files, the sums go through
    ``torch.distributed``, and the first process writes.

    Args:
        photos: the set.
        settings: of the run.
        failures: gets the photos without seeds, and prototypes of fewer photos than there are.
        device: where to compute.

    Raises:
        FileNotFoundError: there are no seeds at all.
        ValueError: the folder holds prototypes of other settings or photos, or a seeds file is
            broken.
        OSError: a file cannot be written.
    """
    made_by = settings_of(settings.seeds, "seeds")
    inputs = stage_inputs(photos, settings.seeds, partial(seeds_file, settings), "seeds", failures)
    facts = {
        "seeds": made_by,
        "tau_T": TAU_T,
        "tau_I": settings.tau_I,
        "anchor": settings.anchor,
        "solver": settings.solver,
        "iterations": settings.iterations,
        "tolerance": settings.tolerance,
    }
    claim_folder(settings.learned, facts, alone=settings.shard[1] == 1)
    target = settings.learned / PROTOTYPES
    if is_made(target, inputs, [settings.output / "vision"], failures):
        return
    files = list(inputs.values())
    rank, world = settings.shard
    # With fewer files than processes each one reads them all.
    share = files[rank::world] if len(files) >= world else files
    text, about = load_prototypes(settings.seeds / TEXT_PROTOTYPES)
    stream = SeedStream(
        share,
        text.to(device),
        num_foreground=len(photos.names.labels),
        workers=settings.workers,
    )
    with tqdm(desc="learn", unit="iteration", disable=rank > 0) as progress:

        def count(_: Iterate) -> None:
            progress.update()

        fit = learn_vision_prototypes(
            stream,
            text.to(device),
            settings.tau_I,
            anchor=settings.anchor,
            solver=settings.solver,
            iterations=settings.iterations,
            tolerance=settings.tolerance,
            callback=count,
            reduce=sum_over_ranks if len(share) < len(files) else None,
            full_output=True,
        )
    if rank > 0:
        return
    made = {
        **about,
        "kind": "vision",
        **facts,
        "photos": len(files),
        "loss": float(fit.losses[-1]),
        "kl": float(fit.losses[-1] - fit.target_entropy),
        "gap": float(fit.gaps[-1]),
        "text_loss": float(fit.losses[0]),
        "text_gap": float(fit.gaps[0]),
        "passes": fit.passes,
        "stop_reason": fit.stop_reason,
    }
    note_photos(target, inputs)
    save_prototypes(target, fit.prototypes.cpu(), made)
    logger.info(
        "prototypes of %d photos: loss %.4f -> %.4f in %d passes (%s)",
        len(files),
        made["text_loss"],
        made["loss"],
        fit.passes,
        fit.stop_reason,
    )
