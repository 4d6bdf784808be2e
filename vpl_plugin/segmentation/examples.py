"""What a training learns from: photos with their pseudo-masks, checked before it starts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vpl_plugin.clip.preprocess import photo_size
from vpl_plugin.core.distributed import sum_over_ranks
from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask

__all__ = ["Example", "MaskFacts", "check_examples", "list_examples"]

# What a message lists in full; a folder of the wrong data set would fill the screen.
_SHOWN = 10
# Decoding PNG files releases the interpreter's lock.
_THREADS = 8
# Files whose facts are kept: COCO's train2014 and more, some hundred bytes each.
_REMEMBERED = 2**17


class Example(NamedTuple):
    """A photo to train on.

    Attributes:
        name: unique among the examples.
        photo: the file.
        mask: its pseudo-mask, a palette or grey-level PNG of the photo's size: 0 is background,
            1 + n the foreground class n, 255 unknown.
        classes: the foreground classes (from 0) known to be in the photo.
    """

    name: str
    photo: Path
    mask: Path
    classes: tuple[int, ...]


class MaskFacts(NamedTuple):
    """What reading a pseudo-mask shows.

    Attributes:
        labels: in it, in ascending order, without 255.
        digest: of its labels and shape, in hexadecimal digits.
    """

    labels: tuple[int, ...]
    digest: str


def list_examples(
    photos: Mapping[str, Path],
    masks: Path,
    num_foreground: int,
    *,
    classes: Mapping[str, Sequence[int]] | None = None,
) -> list[Example]:
    """Photos with the pseudo-masks ``masks/NAME.png``, all of them read and checked.

    Args:
        photos: the photo of each name.
        masks: folder of the pseudo-masks.
        num_foreground: F.
        classes: the classes in each photo, from 0; without them, those in its pseudo-mask.

    Returns:
        One example a photo, in the order of ``photos``.

    Raises:
        FileNotFoundError: photos or pseudo-masks are missing; the message names them.
        InputError: there is no photo; or files are broken, of another size than the photo, or
            hold a label beyond F; the message names them.
    """
    if not photos:
        raise InputError("photos must hold at least one photo to train on; got none")
    examples = [
        Example(
            name,
            Path(photo),
            Path(masks) / f"{name}.png",
            () if classes is None else tuple(classes[name]),
        )
        for name, photo in photos.items()
    ]
    found = check_examples(examples, num_foreground)
    if classes is not None:
        return examples
    return [
        example._replace(classes=tuple(label - 1 for label in facts.labels if label))
        for example, facts in zip(examples, found, strict=True)
    ]


def check_examples(
    examples: Sequence[Example],
    num_foreground: int,
    *,
    ranks: Ranks | None = None,
    device: torch.device | str = "cpu",
) -> list[MaskFacts]:
    """Read every pseudo-mask and every photo's size, and refuse what training would trip over.

    What was read is remembered, so that it is not read again until a file changes.

    Args:
        examples: to check.
        num_foreground: F.
        ranks: of the process group, each of which calls this alike and reads its share; None
            reads all.
        device: where the ranks exchange what they found.

    Returns:
        What is known of each pseudo-mask.

    Raises:
        FileNotFoundError: photos or pseudo-masks are missing; the message names them.
        InputError: no example, or a name given twice; classes beyond F; or files that are broken,
            of another size than the photo, or hold a label beyond F; the message names them.
    """
    if not examples:
        raise InputError("examples must hold at least one photo to train on; got none")
    names = [example.name for example in examples]
    if len(set(names)) < len(names):
        counts = Counter(names)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise InputError(f"examples must have names of their own; twice: {_listed(twice)}")
    _refuse(
        FileNotFoundError,
        "photos without a pseudo-mask",
        (f"{e.name} ({e.mask})" for e in examples if not e.mask.is_file()),
    )
    _refuse(
        FileNotFoundError,
        "photos that do not exist",
        (str(e.photo) for e in examples if not e.photo.is_file()),
    )
    _refuse(
        InputError,
        f"photos with a class beyond the {num_foreground} foreground classes",
        (
            f"{e.name} ({list(e.classes)})"
            for e in examples
            if not all(0 <= n < num_foreground for n in e.classes)
        ),
    )
    ranks = ranks or Ranks(0, 1)
    with ThreadPoolExecutor(_THREADS) as pool:
        share = [
            None if isinstance(found, str) else found
            for found in pool.map(
                lambda example: _inspect(example, num_foreground),
                examples[ranks.rank :: ranks.world],
            )
        ]
    found = share if ranks.world == 1 else _of_all_ranks(share, len(examples), ranks, device)
    # Only these are read again, for what is wrong with them.
    _refuse(
        InputError,
        "pseudo-masks that do not fit",
        (
            str(_inspect(example, num_foreground))
            for example, facts in zip(examples, found, strict=True)
            if facts is None
        ),
    )
    return [facts for facts in found if facts is not None]


def _inspect(example: Example, num_foreground: int) -> MaskFacts | str:
    """What is known of a pseudo-mask, or what is wrong with it."""
    try:
        size = _size(example.photo, _stamp(example.photo))
        shape, facts = _read(example.mask, _stamp(example.mask))
    except InputError as error:
        return str(error)
    if shape != size:
        shown = " x ".join(map(str, shape))
        return f"{example.mask} is {shown} and its photo {size[0]} x {size[1]} (height x width)"
    beyond = [label for label in facts.labels if label > num_foreground]
    if beyond:
        return (
            f"{example.mask} holds the label {beyond[0]}, and labels go from 0 (background) to"
            f" {num_foreground}, or are {IGNORE_INDEX} (unknown)"
        )
    return facts


@lru_cache(maxsize=_REMEMBERED)
def _size(photo: Path, stamp: tuple[int, ...]) -> tuple[int, int]:
    """Of a photo; ``stamp`` tells an older file of the name from the present one."""
    return photo_size(photo)


@lru_cache(maxsize=_REMEMBERED)
def _read(file: Path, stamp: tuple[int, ...]) -> tuple[tuple[int, ...], MaskFacts]:
    """Shape and facts of a pseudo-mask; ``stamp`` as for :func:`_size`."""
    mask = read_mask(file)
    labels = np.bincount(mask.ravel(), minlength=256).nonzero()[0].tolist()
    digest = hashlib.sha256(repr(mask.shape).encode())
    digest.update(mask.tobytes())
    return mask.shape, MaskFacts(
        tuple(label for label in labels if label != IGNORE_INDEX), digest.hexdigest()
    )


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is written anew."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _of_all_ranks(
    share: Sequence[MaskFacts | None], count: int, ranks: Ranks, device: torch.device | str
) -> list[MaskFacts | None]:
    """The facts of all examples from the shares, as tensors: nothing is unpickled."""
    # A byte a label, then the digest; zeros where there is nothing to tell.
    rows = torch.zeros(count, IGNORE_INDEX + 32, dtype=torch.uint8)
    for row, facts in zip(rows[ranks.rank :: ranks.world], share, strict=True):
        if facts is not None:
            row[[*facts.labels]] = 1
            row[IGNORE_INDEX:] = torch.tensor([*bytes.fromhex(facts.digest)], dtype=torch.uint8)
    together = sum_over_ranks(rows.to(device)).cpu().numpy()
    return [
        MaskFacts(
            tuple(row[:IGNORE_INDEX].nonzero()[0].tolist()), row[IGNORE_INDEX:].tobytes().hex()
        )
        if row[IGNORE_INDEX:].any()
        else None
        for row in together
    ]


def _refuse(error: type[Exception], what: str, offenders: Iterable[str]) -> None:
    found = list(offenders)
    if found:
        raise error(f"{len(found)} {what}: {_listed(found)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
