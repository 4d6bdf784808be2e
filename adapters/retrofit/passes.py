"""One pass of a method's code over its photos: what goes in, and what is kept of each photo."""

from __future__ import annotations

import glob
import itertools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from vpl_plugin.adapters.clip_es.drawn_pixels import draw_pixels
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, write_seeds
from vpl_plugin.adapters.retrofit.job import TEXT, Job
from vpl_plugin.adapters.retrofit.recipe import SeenPhoto
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.localization.seeds import seed_classes
from vpl_plugin.prototypes import Prototypes

__all__ = ["Pass"]


@dataclass(frozen=True)
class Pass:
    """One pass over the photos. What is done lies on disk, so several processes may share it.

    Attributes:
        job: what is to be done.
        outputs: of the recipe.
        learns: with the method's own text prototypes, to learn from; else with the prototypes.
    """

    job: Job
    outputs: tuple[str, ...]
    learns: bool

    @property
    def folder(self) -> Path:
        """Where the script writes."""
        return self.job.unfinished / "run"

    def shown(self, text: Prototypes) -> Prototypes:
        """What is to stand in the place of the text prototypes, with rows of their type.

        Raises:
            InputError: the prototypes given are of another shape.
        """
        job = self.job
        if self.learns:
            job.seeds.mkdir(parents=True, exist_ok=True)
            text.save(job.text)
            return text
        if job.learned.exists():
            shown = Prototypes.load(job.learned)
        else:
            given = text if job.prototypes == TEXT else Prototypes.load(str(job.prototypes))
            if given.rows.shape != text.rows.shape:
                raise InputError(
                    f"{job.prototypes} holds prototypes of shape {tuple(given.rows.shape)}; these"
                    f" classes and this model take {tuple(text.rows.shape)}"
                )
            shown = replace(given, about={**given.about, "settings": job.settings})
            shown.save(job.learned)
        return replace(shown, rows=shown.rows.to(text.rows))

    @property
    def temperature(self) -> float | None:
        """Of the softmax in this pass; None is the method's own."""
        job = self.job
        file = str(job.learned) if job.learned.exists() else job.prototypes
        return None if self.learns or file in (None, TEXT) else Prototypes.load(file).temperature

    def is_done(self, photo: str) -> bool:
        """Whether nothing is left to do for a photo."""
        if self.learns:
            return self.job.seeds_of(photo).exists()
        return all(self._files(Path(self.job.output), photo))

    def learn_from(self, photo: str, seen: SeenPhoto) -> None:
        """Keeps pixels of a photo with their seeds."""
        job, maps = self.job, seen.maps.detach().float().cpu()
        features = F.normalize(seen.features.detach().float(), dim=1)
        if len(features) != maps[0].numel():
            raise InputError(
                f"{job.recipe}: photo {photo!r} has {len(features)} pixel features and maps of"
                f" {tuple(maps.shape[1:])}"
            )
        claimed = seed_classes(maps, list(seen.classes), job.threshold)
        drawn = draw_pixels(len(claimed), photo, job.pixels_per_photo, job.seed)
        file = self.job.seeds_of(photo)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_seeds(
            file,
            StoredSeeds(
                features=features.half().cpu().numpy()[drawn],
                seeds=claimed.numpy().astype(np.int16)[drawn],
                pixels=drawn.astype(np.int32),
                grid=(maps.shape[1], maps.shape[2]),
            ),
        )

    def keep(self, photo: str) -> None:
        """A photo's files are complete: they go where the user wants them."""
        for file in itertools.chain(*self._files(self.folder, photo)):
            _same_file(file, Path(self.job.output) / file.relative_to(self.folder))

    def keep_the_rest(self) -> None:
        """The script is through: so does all else that it wrote."""
        for file in _files_below(self.folder):
            _same_file(file, Path(self.job.output) / file.relative_to(self.folder))

    def bring_back(self) -> None:
        """What an earlier run has finished lies where the script writes: its last steps read it."""
        output = Path(self.job.output)
        for file in _files_below(output, besides=self.job.own_folder):
            _same_file(file, self.folder / file.relative_to(output))

    def _files(self, folder: Path, photo: str) -> list[list[Path]]:
        """For each of the outputs what there is of it."""
        name = glob.escape(photo)
        return [list(folder.glob(pattern.format(photo=name))) for pattern in self.outputs]


def _files_below(folder: Path, besides: Path | None = None) -> list[Path]:
    """Files that are no links, in folders that are none."""
    found = []
    for name, folders, files in os.walk(folder):
        folders[:] = [below for below in folders if Path(name, below) != besides]
        found += [Path(name, file) for file in files if not Path(name, file).is_symlink()]
    return found


def _same_file(source: Path, target: Path) -> None:
    """Another name of a file; a copy where the disk has no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copy2(source, part)
