"""Photos in batches of equal size: planned from their headers, decoded ahead by threads."""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

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
        failures: gets the photos that cannot be read, and those that do not fit in memory alone:
            where a batch does not, its photos go one by one.
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

    def localise(batch: Sequence[_Decoded]) -> list[tuple[PhotoCAMs, Tensor]] | None:
        """None where memory does not hold so many photos at once."""
        try:
            return batch_cams(
                model,
                torch.stack([one.pixels for one in batch]),
                [one.item.classes for one in batch],
                prototypes,
                num_foreground=len(names.labels),
                temperature=temperature,
                box_threshold=names.box_threshold,
                position_dtype=settings.position_dtype,
                cam_step=cam_step,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    hinted = False
    with tqdm(total=total, desc=stage, unit="photo", disable=rank > 0) as progress:
        for loaded in _decoded(model, todo, settings.workers):
            readable = [
                decoded
                for item, future in loaded
                if (decoded := _result(model, item, future, failures)) is not None
            ]
            progress.update(len(loaded) - len(readable))
            together = localise(readable) if readable else None
            if together is None and len(readable) > 1 and not hinted:
                hinted = True
                logger.warning(
                    "memory does not hold %d photos at once, so these go one by one: a smaller"
                    " batch size is faster",
                    len(readable),
                )
            for number, one in enumerate(readable):
                if together is not None:
                    found = together[number]
                else:
                    alone = localise([one]) if len(readable) > 1 else None
                    if alone is None:
                        failures[one.item.photo] = (
                            f"no memory for 1 photo(s) of {one.size[0]} x {one.size[1]} pixels:"
                            " make it smaller"
                        )
                        progress.update()
                        continue
                    (found,) = alone
                if not is_done(one.item):
                    yield LocalisedPhoto(one.item, one.size, *found)
                progress.update()


class _Decoded(NamedTuple):
    """A photo in memory: what is listed, its pixels as the model takes them, (height, width)."""

    item: SetPhoto
    pixels: Tensor
    size: tuple[int, int]


def _decode(model: ClipModel, item: SetPhoto) -> _Decoded:
    photo = open_photo(item.photo)
    return _Decoded(item, model.preprocess(photo), (photo.height, photo.width))


def _decoded(
    model: ClipModel, batches: Sequence[tuple[SetPhoto, ...]], workers: int
) -> Iterator[list[tuple[SetPhoto, Future[_Decoded]]]]:
    """The batches in order, with so many photos decoded ahead as there are workers, or a batch."""
    # Pillow decodes and resizes outside the interpreter lock, so threads do.
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[list[tuple[SetPhoto, Future[_Decoded]]]] = deque()
        waiting = 0
        try:
            for batch in batches:
                ahead.append([(item, pool.submit(_decode, model, item)) for item in batch])
                waiting += len(batch)
                while len(ahead) > 1 and waiting - len(ahead[0]) >= workers:
                    waiting -= len(ahead[0])
                    yield ahead.popleft()
            yield from ahead
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(
    model: ClipModel, item: SetPhoto, future: Future[_Decoded], failures: dict[Path, str]
) -> _Decoded | None:
    """The decoded photo; None, and a failure, where it is broken or does not fit in memory."""
    try:
        try:
            return future.result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Others were decoded at the same time: it may fit now, without them.
        return _decode(model, item)
    # BrokenPhotoError is a ValueError.
    except (ValueError, FileNotFoundError) as error:
        failures[item.photo] = str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failures[item.photo] = f"no memory to decode it: make it smaller. {error}".strip()
    return None
