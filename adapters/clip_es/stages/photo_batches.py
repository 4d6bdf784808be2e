"""Photos in batches of equal size: planned from their headers, decoded ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import CAMStep, PhotoCAMs, batch_cams
from vpl_plugin.adapters.clip_es.stages.settings import Settings
from vpl_plugin.adapters.datasets.photo_set import SetPhoto
from vpl_plugin.clip.class_names import ClassNames
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.clip.preprocess import BrokenPhotoError, open_photo, photo_size

__all__ = ["LocalisedPhoto", "localised_photos", "photo_grid", "plan_batches"]

# Attention maps grow with the square of the patches: a batch holds at most so many entries a block.
MOST_ATTENTION = 8 * 1024 * 1024


class LocalisedPhoto(NamedTuple):
    """A photo with what one pass through the encoder gives.

    Attributes:
        photo: as the set lists it.
        size: (height, width) in pixels.
        cams: of its classes.
        features: (h * w, D), unit rows.
    """

    photo: SetPhoto
    size: tuple[int, int]
    cams: PhotoCAMs
    features: Tensor


def photo_grid(path: Path, patch_size: int) -> tuple[int, int]:
    """Rows and columns of a photo's patches, from its header alone.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenPhotoError: it is no photo.
    """
    height, width = photo_size(path)
    return -(-height // patch_size), -(-width // patch_size)


def plan_batches(
    photos: Sequence[SetPhoto], patch_size: int, batch_size: int, failures: dict[Path, str]
) -> list[tuple[SetPhoto, ...]]:
    """Batches of photos with one grid of patches, of the whole set.

    The plan does not depend on what is done already: which photos share a batch moves the last
    bits of their CAMs, and a run that goes on after it was killed ends with the same files.

    Args:
        photos: of the set.
        patch_size: of the model.
        batch_size: the most photos in a batch.
        failures: gets the photos whose header cannot be read.

    Returns:
        The batches, ordered by their first photos.
    """
    by_grid: dict[tuple[int, int], list[tuple[int, SetPhoto]]] = {}
    for number, item in enumerate(tqdm(photos, desc="headers", unit="photo", leave=False)):
        try:
            grid = photo_grid(item.photo, patch_size)
        except (OSError, BrokenPhotoError) as error:
            failures[item.photo] = str(error)
            continue
        by_grid.setdefault(grid, []).append((number, item))
    batches = []
    for (height, width), members in by_grid.items():
        most = max(1, min(batch_size, MOST_ATTENTION // (height * width) ** 2))
        batches += [members[start : start + most] for start in range(0, len(members), most)]
    batches.sort(key=lambda members: members[0][0])
    return [tuple(item for _, item in members) for members in batches]


def localised_photos(
    model: ClipModel,
    photos: Sequence[SetPhoto],
    prototypes: Tensor,
    settings: Settings,
    *,
    stage: str,
    names: ClassNames,
    temperature: float | None,
    is_done: Callable[[SetPhoto], bool],
    failures: dict[Path, str],
    cam_step: CAMStep | None = None,
) -> Iterator[LocalisedPhoto]:
    """CAMs and features of the photos that are not done, batch by batch.

    Args:
        model: the frozen CLIP model.
        photos: of the set.
        prototypes: (N, D), the foreground rows, then the background's.
        settings: batch size, workers, shard, parity.
        stage: what the progress bar calls it.
        names: the classes of the set.
        temperature: of GradCAM's softmax.
        is_done: whether a photo's files are there.
        failures: gets the photos that cannot be read, or whose attention does not fit in memory.
        cam_step: of :func:`batch_cams`.

    Yields:
        The photos that are not done, a batch in memory and a few decoded ahead.
    """
    if all(is_done(item) for item in photos):
        return
    rank, world = settings.shard
    batches = plan_batches(photos, model.patch_size, settings.batch_size, failures)[rank::world]
    todo = [batch for batch in batches if not all(is_done(item) for item in batch)]
    total = sum(len(batch) for batch in todo)
    with tqdm(total=total, desc=stage, unit="photo", disable=rank > 0) as progress:
        for loaded in _decoded(model, todo, settings.workers):
            readable = []
            for item, result in loaded:
                decoded = _result(item, result, failures)
                if decoded is not None:
                    readable.append((item, *decoded))
            progress.update(len(loaded) - len(readable))
            if not readable:
                continue
            try:
                localised = batch_cams(
                    model,
                    torch.stack([pixels for _, pixels, _ in readable]),
                    [item.classes for item, _, _ in readable],
                    prototypes,
                    num_foreground=len(names.labels),
                    temperature=temperature,
                    box_threshold=names.box_threshold,
                    position_dtype=settings.position_dtype,
                    cam_step=cam_step,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                for item, _, (height, width) in readable:
                    failures[item.photo] = (
                        f"no memory for {len(readable)} photo(s) of {height} x {width} pixels at"
                        " once: lower the batch size, or make the photo smaller"
                    )
                progress.update(len(readable))
                continue
            for (item, _, size), (cams, features) in zip(readable, localised, strict=True):
                if not is_done(item):
                    yield LocalisedPhoto(item, size, cams, features)
                progress.update()


Decoded = tuple[Tensor, tuple[int, int]]


def _decoded(
    model: ClipModel, batches: Sequence[tuple[SetPhoto, ...]], workers: int
) -> Iterator[list[tuple[SetPhoto, Future[Decoded]]]]:
    """The batches in order, with so many photos decoded ahead as there are workers, or a batch."""

    def decode(path: Path) -> Decoded:
        photo = open_photo(path)
        return model.preprocess(photo), (photo.height, photo.width)

    # Pillow decodes and resizes outside the interpreter lock, so threads do.
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[list[tuple[SetPhoto, Future[Decoded]]]] = deque()
        waiting = 0
        try:
            for batch in batches:
                ahead.append([(item, pool.submit(decode, item.photo)) for item in batch])
                waiting += len(batch)
                while len(ahead) > 1 and waiting - len(ahead[0]) >= workers:
                    waiting -= len(ahead[0])
                    yield ahead.popleft()
            yield from ahead
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(item: SetPhoto, future: Future[Decoded], failures: dict[Path, str]) -> Decoded | None:
    try:
        return future.result()
    # BrokenPhotoError is a ValueError.
    except (ValueError, FileNotFoundError) as error:
        failures[item.photo] = str(error)
        return None
