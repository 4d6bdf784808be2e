"""Stage ``masks``: refined CAMs -> dense CRF in worker processes -> palette PNG."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.clip.out_of_memory import noted
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.localization.crf import clip_es_photo, dense_crf, reference_backend
from vpl_plugin.localization.mask_files import IGNORE_INDEX, write_mask
from vpl_plugin.localization.seeds import background_score, cams_to_labels, resize_cams
from vpl_plugin.results import Results, made_from
from vpl_plugin.worker_pool import run_jobs

__all__ = ["MaskJob", "Masks", "make_mask"]

logger = logging.getLogger(__name__)


class MaskJob(NamedTuple):
    """What one photo's masks take.

    Attributes:
        photo: path of the photo.
        cams: path of its CAMs.
        mask: where the pseudo-mask goes, 255 where unsure.
        labels: where the labels of all pixels go.
        made_from: the digest of their inputs.
        power: of the background score.
        confidence: below it a pixel is unsure.
        parity: the CRF sees the photo as upstream's script hands it over.
        backend: of the CRF; None leaves it out, and every pixel has its best class.
    """

    photo: Path
    cams: Path
    mask: Path
    labels: Path
    made_from: str
    power: float
    confidence: float
    parity: bool
    backend: str | None


class Masks(Stage):
    """Pseudo-masks, 255 where unsure, and the labels of all pixels that mIoU is taken of."""

    name = "masks"

    def run(self, run: Run[Settings]) -> None:
        """Writes the masks of every photo whose files are not there yet."""
        settings, cams = run.settings, Results(run.settings.cams)
        job_of = _prepared(run)
        jobs = []
        for item in run.photos.photos[run.ranks.rank :: run.ranks.world]:
            inputs = made_from(cams.file(item.name))
            if inputs is None:
                run.failures.setdefault(item.photo, f"it has no CAMs at {cams.file(item.name)}")
            elif job := job_of(item, inputs):
                jobs.append(job)
        if not jobs:
            return
        # Without the CRF a mask takes less time than a process to start.
        workers = settings.workers if settings.crf else 1
        if settings.crf:
            _log_once(jobs[0].backend, min(workers, len(jobs)))
        for job, result in tqdm(
            run_jobs(make_mask, jobs, workers, run.pool),
            total=len(jobs),
            desc=self.name,
            unit="photo",
            disable=run.ranks.rank > 0,
        ):
            with noted(run.failures, job.photo, "too large for the memory of its dense CRF."):
                result()

    def early_start(self, run: Run[Settings]) -> Callable[[SetPhoto, str], None] | None:
        """The CRF of a photo need not wait for the CAMs of the others."""
        settings, pool = run.settings, run.pool
        # Ranks share masks in another way than CAMs.
        if pool is None or not settings.crf or settings.workers == 1 or not run.ranks.alone:
            return None
        # Only when the first CAMs are there is it said what made them.
        prepared = cache(partial(_prepared, run))

        def start(item: SetPhoto, inputs: str) -> None:
            if job := prepared()(item, inputs):
                _log_once(job.backend, pool.workers)
                pool.start(make_mask, job)

        return start

    def estimate(self, run: Run[Settings], costs: Costs) -> Estimate:
        """Photos without masks."""
        masks = Results(run.settings.masks)
        left = sum(not masks.file(item.name, ".png").exists() for item in run.photos.photos)
        # Two palette PNGs, which take about a fortieth of a byte per pixel each.
        seconds = left * costs.crf_seconds_per_photo / run.settings.workers
        return Estimate(self.name, left, left * costs.area / 20, seconds)


def _prepared(run: Run[Settings]) -> Callable[[SetPhoto, str], MaskJob | None]:
    """Claims the folders; gives what makes the job of a photo, None where its masks are made.

    That takes the photo, and the digest in its CAMs.
    """
    settings, classes = run.settings, len(run.photos.names.labels)
    if classes >= IGNORE_INDEX:
        raise InputError(f"masks have 8 bits: at most {IGNORE_INDEX - 1} classes; got {classes}")
    cams = Results(settings.cams)
    decisive = settings.facts("crf", "power", "confidence", "parity")
    facts = {"cams": cams.settings("cams"), **decisive}
    masks, labels = (
        Results.claim(folder, facts, alone=run.ranks.alone)
        for folder in (settings.masks, settings.labels)
    )
    backend = _backend(settings)

    def job_of(item: SetPhoto, inputs: str) -> MaskJob | None:
        if all(kind.is_made(item.name, inputs, ".png") for kind in (masks, labels)):
            return None
        return MaskJob(
            photo=item.photo,
            cams=cams.file(item.name),
            mask=masks.new_file(item.name, ".png"),
            labels=labels.new_file(item.name, ".png"),
            made_from=inputs,
            power=settings.power,
            confidence=settings.confidence,
            parity=settings.parity,
            backend=backend,
        )

    return job_of


def _backend(settings: Settings) -> str | None:
    if not settings.crf:
        return None
    return reference_backend() if settings.parity else "torch"


@cache
def _log_once(backend: str | None, processes: int) -> None:
    logger.info("dense CRF: %s, processes: %d", backend, processes)


def make_mask(job: MaskJob) -> None:
    """Writes the pseudo-mask and the labels of one photo."""
    photo = np.asarray(open_photo(job.photo))
    stored = read_cams(job.cams)
    if photo.shape[:2] != stored.size:
        raise InputError(
            f"{job.photo} is of size {photo.shape[:2]}, its CAMs are of a photo of {stored.size}"
        )
    maps = resize_cams(stored.refined, stored.size)
    if job.backend is None:
        labels = mask = cams_to_labels(maps, stored.classes, job.power).to(torch.uint8).numpy()
    else:
        scores = torch.cat([background_score(maps, job.power), maps]).numpy()
        shown = clip_es_photo(photo) if job.parity else photo
        probabilities = dense_crf(shown, scores, backend=job.backend)
        of_map = np.array([0, *(index + 1 for index in stored.classes)], np.uint8)
        labels = of_map[probabilities.argmax(axis=0)]
        unsure = probabilities.max(axis=0) < job.confidence
        mask = np.where(unsure, IGNORE_INDEX, labels).astype(np.uint8)
    write_mask(job.labels, labels, made_from=job.made_from)
    write_mask(job.mask, mask, made_from=job.made_from)
