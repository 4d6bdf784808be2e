"""What a training learns from: photos with their pseudo-masks, checked before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpl_plugin.clip.preprocess import photo_size
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask

__all__ = ["Example", "check_examples", "list_examples"]

# What a message lists in full; a folder of the wrong data set would fill the screen.
_SHOWN = 10
# Decoding PNG files releases the interpreter's lock.
_THREADS = 8


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
        ValueError: there is no photo; or files are broken, of another size than the photo, or
            hold a label beyond F; the message names them.
    """
    if not photos:
        raise ValueError("photos must hold at least one photo to train on; got none")
    examples = [
        Example(
            name,
            Path(photo),
            Path(masks) / f"{name}.png",
            () if classes is None else tuple(classes[name]),
        )
        for name, photo in photos.items()
    ]
    labels = check_examples(examples, num_foreground)
    if classes is not None:
        return examples
    return [
        example._replace(classes=tuple(label - 1 for label in present if label))
        for example, present in zip(examples, labels, strict=True)
    ]


def check_examples(examples: Sequence[Example], num_foreground: int) -> list[tuple[int, ...]]:
    """Read every pseudo-mask and every photo's size, and refuse what training would trip over.

    Args:
        examples: to check.
        num_foreground: F.

    Returns:
        The labels in each pseudo-mask in ascending order, without 255.

    Raises:
        FileNotFoundError: photos or pseudo-masks are missing; the message names them.
        ValueError: no example, or a name given twice; classes beyond F; or files that are broken,
            of another size than the photo, or hold a label beyond F; the message names them.
    """
    if not examples:
        raise ValueError("examples must hold at least one photo to train on; got none")
    names = [example.name for example in examples]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"examples must have names of their own; twice: {_listed(twice)}")
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
        ValueError,
        f"photos with a class beyond the {num_foreground} foreground classes",
        (
            f"{e.name} ({list(e.classes)})"
            for e in examples
            if not all(0 <= n < num_foreground for n in e.classes)
        ),
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(lambda example: _inspect(example, num_foreground), examples))
    _refuse(
        ValueError,
        "pseudo-masks that do not fit",
        (found for found in read if isinstance(found, str)),
    )
    return [found for found in read if not isinstance(found, str)]


def _inspect(example: Example, num_foreground: int) -> tuple[int, ...] | str:
    """The labels in a pseudo-mask, or what is wrong with it."""
    try:
        mask = read_mask(example.mask)
        size = photo_size(example.photo)
    except ValueError as error:
        return str(error)
    if mask.shape != size:
        shown = " x ".join(map(str, mask.shape))
        return f"{example.mask} is {shown} and its photo {size[0]} x {size[1]} (height x width)"
    labels = np.bincount(mask.ravel(), minlength=256).nonzero()[0].tolist()
    beyond = [label for label in labels if num_foreground < label != IGNORE_INDEX]
    if beyond:
        return (
            f"{example.mask} holds the label {beyond[0]}, and labels go from 0 (background) to"
            f" {num_foreground}, or are {IGNORE_INDEX} (unknown)"
        )
    return tuple(label for label in labels if label != IGNORE_INDEX)


def _refuse(error: type[Exception], what: str, offenders: Iterable[str]) -> None:
    found = list(offenders)
    if found:
        raise error(f"{len(found)} {what}: {_listed(found)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
