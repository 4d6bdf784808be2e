"""Photos in batches of equal size: planned from their headers, decoded ahead by threads.

A GPU encodes a batch at a time. A CPU encodes as many photos at once as there are workers, each in
a thread of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import CAMStep, PhotoCAMs, token_cams
from vpl_plugin.adapters.clip_es.kept_tokens import KeptTokens, kept_tokens, vision_tokens
from vpl_plugin.adapters.clip_es.photo_grid import photo_grid
from vpl_plugin.adapters.clip_es.stages.token_files import StoredTokens, TokenFiles
from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip.model import ClipModel, VisionTokens
from vpl_plugin.clip.out_of_memory import is_out_of_memory, noted
from vpl_plugin.clip.preprocess import BrokenPhotoError, open_photo
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

__all__ = ["LocalisedPhoto", "localisation_facts", "localised_photos", "plan_batches"]

logger = logging.getLogger(__name__)

# Attention maps grow with the square of the patches: a batch holds at most so many entries a block.
MOST_ATTENTION = 8 * 1024 * 1024
# The same for all batches that a CPU works on at a time: 50 photos of 512 x 384 pixels.
MOST_AT_ONCE = 4 * MOST_ATTENTION
BATCH_ON_GPU = 8

Result = TypeVar("Result")


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


def localisation_facts(run: Run[Any], *names: str) -> dict[str, Any]:
    """What a photo's CAMs depend on beside the prototypes, and the settings of these names."""
    return {
        **run.settings.source,
        "encoder": run.encoder.fingerprint(),
        "box_threshold": run.photos.names.box_threshold,
        **run.settings.facts("parity", *names),
    }


def localised_photos(
    run: Run[Any],
    prototypes: Prototypes,
    *,
    stage: str,
    is_done: Callable[[SetPhoto], bool],
    cam_step: CAMStep | None = None,
) -> Iterator[LocalisedPhoto]:
    """CAMs and features of the photos that are not done, batch by batch.

    Where the settings keep tokens, they are read where they are and written where they are not. The
    CAMs are made from what is written either way, so that a run that goes on after it was killed
    ends with the same files.

    Args:
        run: photos, model, ranks, and the settings batch_size, workers, position_dtype, keep_tokens
            and tokens. Its failures get the photos that cannot be read, and those that do not fit
            in memory alone: where a batch does not, its photos go one by one.
        prototypes: that GradCAM is given, on the model's device.
        stage: what the progress bar calls it.
        is_done: whether a photo's files are there.
        cam_step: of :func:`~vpl_plugin.adapters.clip_es.batch_cams`.

    Yields:
        The photos that are not done, a batch in memory and a few decoded ahead.
    """
    photos, settings, failures, model = run.photos, run.settings, run.failures, run.encoder
    left = {item.name for item in photos.photos if not is_done(item)}
    if not left:
        return
    files = None
    if settings.keep_tokens:
        facts = localisation_facts(run)
        files = TokenFiles(Results.claim(settings.tokens, facts, alone=run.ranks.alone))
    on_cpu = model.device.type == "cpu"
    batch_size = settings.batch_size or (1 if on_cpu else BATCH_ON_GPU)
    batches = plan_batches(photos.photos, model.patch_size, batch_size, failures)
    todo = [
        batch
        for batch in batches[run.ranks.rank :: run.ranks.world]
        if any(item.name in left for item in batch)
    ]
    total = sum(len(batch) for batch in todo)
    hinted = False

    def tokens_of(batch: Sequence[_Loaded]) -> VisionTokens:
        kept = [one.given for one in batch if isinstance(one.given, KeptTokens)]
        if not kept:
            pixels = torch.stack([one.given for one in batch if isinstance(one.given, Tensor)])
            tokens = model.tokens_before_last_block(pixels, position_dtype=settings.position_dtype)
            if files is None:
                return tokens
            kept = kept_tokens(tokens)
            for one, own in zip(batch, kept, strict=True):
                files.write(one.item, StoredTokens(own, one.size))
        return vision_tokens(kept, model.device, model.dtype)

    def localise(batch: Sequence[_Loaded]) -> list[tuple[PhotoCAMs, Tensor]] | None:
        """None where memory does not hold so many photos at once."""
        try:
            return token_cams(
                model,
                tokens_of(batch),
                [one.item.classes for one in batch],
                prototypes,
                box_threshold=photos.names.box_threshold,
                cam_step=cam_step,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def localise_batch(readable: Sequence[_Loaded]) -> tuple[int, list[LocalisedPhoto]]:
        """How many photos the batch has, and those of them that fit in memory."""
        nonlocal hinted
        together = localise(readable)
        if together is None and len(readable) > 1 and not hinted:
            hinted = True
            logger.warning(
                "memory does not hold %d photos at once, so these go one by one: a smaller"
                " batch size is faster",
                len(readable),
            )
        done = []
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
                    continue
                (found,) = alone
            done.append(LocalisedPhoto(one.item, one.size, *found))
        return len(readable), done

    with tqdm(total=total, desc=stage, unit="photo", disable=run.ranks.rank > 0) as progress:

        def readable() -> Iterator[list[_Loaded]]:
            for batch in _loaded(model, todo, settings.workers, files):
                found = [
                    loaded
                    for item, future in batch
                    if (loaded := _result(model, item, future, failures)) is not None
                ]
                progress.update(len(batch) - len(found))
                if found:
                    yield found

        if on_cpu:
            localised = _in_threads(localise_batch, readable(), settings.workers, model.patch_size)
        else:
            localised = map(localise_batch, readable())
        for count, done in localised:
            yield from (item for item in done if item.photo.name in left)
            progress.update(count)


def _in_threads(
    work: Callable[[Sequence[_Loaded]], Result],
    batches: Iterable[Sequence[_Loaded]],
    threads: int,
    patch_size: int,
) -> Iterator[Result]:
    """The results in order, from so many threads with a core each, as far as memory allows."""
    before = torch.get_num_threads()
    under_way: deque[tuple[int, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for batch in batches:
                size = sum(one.patches(patch_size) ** 2 for one in batch)
                # One more than there are threads, so that none waits for the caller.
                while under_way and (
                    len(under_way) > threads
                    or size + sum(held for held, _ in under_way) > MOST_AT_ONCE
                ):
                    yield under_way.popleft()[1].result()
                under_way.append((size, pool.submit(work, batch)))
            while under_way:
                yield under_way.popleft()[1].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            # Threads that start later take the number that was set last.
            torch.set_num_threads(before)


class _Loaded(NamedTuple):
    """A photo in memory.

    Attributes:
        item: as the set lists it.
        given: its pixels as the model takes them, or its kept tokens.
        size: (height, width) in pixels.
    """

    item: SetPhoto
    given: Tensor | KeptTokens
    size: tuple[int, int]

    def patches(self, patch_size: int) -> int:
        """How many it has."""
        if isinstance(self.given, KeptTokens):
            return len(self.given.roots)
        return self.given[0].numel() // patch_size**2


def _decode(model: ClipModel, item: SetPhoto) -> _Loaded:
    photo = open_photo(item.photo)
    return _Loaded(item, model.preprocess(photo), (photo.height, photo.width))


def _read(files: TokenFiles, item: SetPhoto) -> _Loaded | None:
    """None where the file is broken, or memory does not hold it now."""
    try:
        stored = files.read(item)
    except MemoryError:
        return None
    return stored and _Loaded(item, *stored)


_Ahead: TypeAlias = "list[tuple[SetPhoto, Future[_Loaded | None]]]"


def _loaded(
    model: ClipModel,
    batches: Sequence[tuple[SetPhoto, ...]],
    workers: int,
    files: TokenFiles | None,
) -> Iterator[_Ahead]:
    """The batches in order, with so many photos loaded ahead as there are workers, or a batch."""
    # Pillow decodes and resizes outside the interpreter lock, so threads do.
    with ThreadPoolExecutor(workers) as pool:

        def start(batch: Sequence[SetPhoto]) -> _Ahead:
            kept = files is not None and all(map(files.has, batch))
            load = partial(_read, files) if files and kept else partial(_decode, model)
            return [(item, pool.submit(load, item)) for item in batch]

        def ready(batch: _Ahead) -> _Ahead:
            broken = (future.exception() is None and not future.result() for _, future in batch)
            if any(broken):
                return [(item, pool.submit(_decode, model, item)) for item, _ in batch]
            return batch

        ahead: deque[_Ahead] = deque()
        waiting = 0
        try:
            for batch in batches:
                ahead.append(start(batch))
                waiting += len(batch)
                while len(ahead) > 1 and waiting - len(ahead[0]) >= workers:
                    waiting -= len(ahead[0])
                    yield ready(ahead.popleft())
            yield from map(ready, ahead)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(
    model: ClipModel, item: SetPhoto, future: Future[_Loaded | None], failures: dict[Path, str]
) -> _Loaded | None:
    """The decoded photo; None, and a failure, where it is broken or does not fit in memory."""
    with noted(failures, item.photo, "no memory to decode it: make it smaller."):
        try:
            return future.result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Others were decoded at the same time: it may fit now, without them.
        return _decode(model, item)
    return None
