"""Stage ``masks``: refined CAMs -> dense CRF in worker processes -> palette PNG."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.clip_es.stages.cams import cams_file
from vpl_plugin.adapters.clip_es.stages.settings import Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.adapters.worker_pool import run_jobs
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.localization.crf import clip_es_photo, dense_crf, reference_backend
from vpl_plugin.localization.mask_files import IGNORE_INDEX, write_mask
from vpl_plugin.localization.seeds import background_score, resize_cams
from vpl_plugin.run_folder import claim_folder, settings_of

__all__ = ["MaskJob", "make_mask", "run_masks"]

logger = logging.getLogger(__name__)


class MaskJob(NamedTuple):
    """What one photo's masks take.

    Attributes:
        photo: path of the photo.
        cams: path of its CAMs.
        mask: where the pseudo-mask goes, 255 where unsure.
        labels: where the labels of all pixels go.
        power: of the background score.
        confidence: below it a pixel is unsure.
        parity: the CRF sees the photo as upstream's script hands it over.
        backend: of the CRF.
    """

    photo: Path
    cams: Path
    mask: Path
    labels: Path
    power: float
    confidence: float
    parity: bool
    backend: str


def run_masks(photos: PhotoSet, settings: Settings, failures: dict[Path, str]) -> None:
    """Writes the masks of every photo whose files are not there yet.

    Args:
        photos: the set.
        settings: of the run.
        failures: gets the photos without CAMs, and those that cannot be read.

    Raises:
        FileNotFoundError: there are no CAMs at all.
        ValueError: the folder holds masks of other settings, or there are too many classes.
        OSError: a file cannot be written.
    """
    if len(photos.names.labels) >= IGNORE_INDEX:
        raise ValueError(
            f"masks have 8 bits: at most {IGNORE_INDEX - 1} classes; got {len(photos.names.labels)}"
        )
    facts = {
        "cams": settings_of(settings.cams, "cams"),
        "power": settings.power,
        "confidence": settings.confidence,
        "parity": settings.parity,
    }
    for folder in (settings.masks, settings.labels):
        claim_folder(folder, facts, alone=settings.shard[1] == 1)
    rank, world = settings.shard
    backend = reference_backend() if settings.parity else "torch"
    jobs = []
    for item in photos.photos[rank::world]:
        job = MaskJob(
            item.photo,
            cams_file(settings, item.name),
            settings.masks / f"{item.name}.png",
            settings.labels / f"{item.name}.png",
            settings.power,
            settings.confidence,
            settings.parity,
            backend,
        )
        if not job.cams.exists():
            failures.setdefault(item.photo, f"it has no CAMs at {job.cams}")
        elif not (job.mask.exists() and job.labels.exists()):
            job.mask.parent.mkdir(parents=True, exist_ok=True)
            job.labels.parent.mkdir(parents=True, exist_ok=True)
            jobs.append(job)
    if not jobs:
        return
    logger.info("dense CRF: %s, processes: %d", backend, min(settings.workers, len(jobs)))
    for job, result in tqdm(
        run_jobs(make_mask, jobs, settings.workers),
        total=len(jobs),
        desc="masks",
        unit="photo",
        disable=rank > 0,
    ):
        try:
            result()
        # BrokenPhotoError is a ValueError.
        except (ValueError, FileNotFoundError) as error:
            failures[job.photo] = str(error)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failures[job.photo] = f"too large for the memory of its dense CRF. {error}"


def make_mask(job: MaskJob) -> None:
    """Writes the pseudo-mask and the labels of one photo."""
    photo = np.asarray(open_photo(job.photo))
    stored = read_cams(job.cams)
    if photo.shape[:2] != stored.size:
        raise ValueError(
            f"{job.photo} is of size {photo.shape[:2]}, its CAMs are of a photo of {stored.size}"
        )
    maps = resize_cams(stored.refined, stored.size)
    scores = torch.cat([background_score(maps, job.power), maps]).numpy()
    shown = clip_es_photo(photo) if job.parity else photo
    probabilities = dense_crf(shown, scores, backend=job.backend)
    of_map = np.array([0, *(index + 1 for index in stored.classes)], np.uint8)
    labels = of_map[probabilities.argmax(axis=0)]
    mask = np.where(probabilities.max(axis=0) < job.confidence, IGNORE_INDEX, labels)
    write_mask(job.labels, labels)
    write_mask(job.mask, mask.astype(np.uint8))
