"""Photos to label maps on disk by a trained decoder, the dense CRF in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vpl_plugin.clip.out_of_memory import noted
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.localization.crf import dense_crf
from vpl_plugin.localization.mask_files import write_mask
from vpl_plugin.results import made_from, photo_digest
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.inference import Views, most_likely, photo_views, probabilities
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.worker_pool import run_jobs

__all__ = ["Target", "Wanted", "crf_labels", "write_predictions"]

# A class that is nowhere likelier than this does not come out of the CRF as the likeliest either,
# and its time grows with the number of classes.
_CRF_LEAST = 0.05


class Target(NamedTuple):
    """A label map to write.

    Attributes:
        path: of the PNG.
        crf: sharpened along the photo's edges.
        classes: the only foreground classes that may be there; None allows all.
    """

    path: Path
    crf: bool = False
    classes: tuple[int, ...] | None = None

    def made_from(self, photo: Path) -> str:
        """The digest of its inputs: the photo, and the classes allowed."""
        return photo_digest(photo, self.classes)

    def is_made(self, photo: Path) -> bool:
        """Whether it is there, and was made from these inputs."""
        return made_from(self.path) == self.made_from(photo)


class Wanted(NamedTuple):
    """A photo and what is wanted of it.

    Attributes:
        photo: path of the photo.
        targets: its label maps; those that were made from the same inputs stay.
    """

    photo: Path
    targets: tuple[Target, ...]


class _Job(NamedTuple):
    wanted: Wanted
    views: Views


def write_predictions(
    segmenter: Segmenter,
    wanted: Sequence[Wanted],
    settings: InferenceSettings,
    failures: dict[Path, str],
    *,
    workers: int = 1,
    about: str = "segment",
) -> None:
    """Writes the label maps that are not there yet; a photo that fails is noted and passed over.

    Args:
        segmenter: a trained decoder on its encoder.
        wanted: photos and targets.
        settings: how the photos are seen.
        failures: gets the photos that could not be done.
        workers: processes for the CRF.
        about: what the progress bar says.

    Raises:
        OSError: a file cannot be written.
    """
    todo = []
    for photo, targets in wanted:
        missing = tuple(target for target in targets if not target.is_made(photo))
        if missing:
            todo.append(Wanted(photo, missing))
    crf = any(target.crf for item in todo for target in item.targets)
    with tqdm(total=len(todo), desc=about, unit="photo") as progress:
        jobs = _encoded(segmenter, todo, settings, failures, progress)
        # One pool for all: starting its processes takes seconds.
        for job, result in run_jobs(_write, jobs, min(workers, len(todo)) if crf else 1):
            # The photo may have been removed or changed since it was encoded.
            with noted(failures, job.wanted.photo, "too large for the memory."):
                result()
            progress.update()


def crf_labels(photo: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The likeliest labels after the dense CRF, run on the classes that may come out of it.

    Args:
        photo: (H, W, 3) uint8.
        scores: (1 + F, H, W) probabilities, channel 0 the background.

    Returns:
        (H, W) uint8 labels.
    """
    likely = np.flatnonzero(scores.max(axis=(1, 2)) >= _CRF_LEAST)
    if len(likely) == 1:
        return np.full(photo.shape[:2], likely[0], np.uint8)
    # Rounding may take a probability a hair above 1.
    sharpened = dense_crf(photo, scores[likely].clip(0, 1))
    return likely.astype(np.uint8)[sharpened.argmax(axis=0)]


def _encoded(
    segmenter: Segmenter,
    todo: Sequence[Wanted],
    settings: InferenceSettings,
    failures: dict[Path, str],
    progress: tqdm,
) -> Iterator[_Job]:
    """The photos' maps, one photo after the other; those that fail are noted and counted."""
    for item in todo:
        job = None
        with noted(failures, item.photo, "too large for the memory: take a (smaller) --window."):
            views = photo_views(segmenter, open_photo(item.photo), **settings.views())
            job = _Job(item, Views([maps.cpu() for maps in views.maps], views.size))
        if job is None:
            progress.update()
        else:
            yield job


def _write(job: _Job) -> None:
    """Writes the label maps of one photo."""
    photo = None
    for target in job.wanted.targets:
        if not target.crf:
            labels = most_likely(job.views, target.classes)
        else:
            if photo is None:
                photo = np.asarray(open_photo(job.wanted.photo))
            labels = crf_labels(photo, probabilities(job.views, target.classes).numpy())
        target.path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target.path, labels, made_from=target.made_from(job.wanted.photo))
