"""The split files of upstream CLIP-ES, and whether the photos they name are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from vpl_plugin.adapters.clip_es.upstream.scripts import UpstreamScript
from vpl_plugin.adapters.photos.split_file import named_photo, split_lines
from vpl_plugin.errors import InputError

__all__ = ["UpstreamSplit", "check_photos", "read_split"]

# How many missing files an error names.
_SHOWN = 5


class UpstreamSplit(NamedTuple):
    """What upstream's scripts read from a split file.

    Attributes:
        photos: file names, with .jpg.
        labels: for each photo its classes, as upstream keeps them: strings. Empty lists where VOC's
            annotations say.
    """

    photos: list[str]
    labels: list[list[str]]


def read_split(path: Path, script: UpstreamScript, img_root: Path) -> UpstreamSplit:
    """Reads a split file: a photo a line, for COCO followed by its class indices.

    A name may hold blanks where there is such a photo.

    Args:
        path: of the file.
        script: which of upstream's scripts is to read it.
        img_root: folder of photos.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8 text, is empty, names a photo twice, or a line has no classes
            where it must.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no split file {path}")
    at_hand = {*os.listdir(img_root)} if img_root.is_dir() else set()
    photos: dict[str, list[str]] = {}
    for number, line in split_lines(path):
        stem, labels = named_photo(line, lambda text: f"{text}.jpg" in at_hand)
        name = f"{stem}.jpg"
        if name in photos:
            raise InputError(f"{path}, line {number}: photo {stem!r} is listed twice")
        if script.labels_in_split and not (labels and all(label.isdecimal() for label in labels)):
            raise InputError(
                f"{path}, line {number}: it takes a photo and the indices of its classes, such as"
                f" 'COCO_train2014_000000000009 45 49 50'; got {line!r}"
            )
        if not script.labels_in_split and labels:
            raise InputError(f"{path}, line {number}: it takes a photo's name alone; got {line!r}")
        photos[name] = labels
    return UpstreamSplit(list(photos), list(photos.values()))


def check_photos(img_root: Path, split: UpstreamSplit, script: UpstreamScript) -> None:
    """Every photo of the split is there, and for VOC its annotation where upstream looks for it.

    Raises:
        FileNotFoundError: something is missing; the message names the first few.
    """
    if not img_root.is_dir():
        raise FileNotFoundError(f"there is no folder of photos {img_root}")
    needed = [img_root / name for name in split.photos]
    if not script.labels_in_split:
        # Upstream finds the annotation by replacing these words in the photo's path.
        needed += [
            Path(str(path).replace("/JPEGImages", "/Annotations").replace(".jpg", ".xml"))
            for path in needed
        ]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise FileNotFoundError(
            f"{len(missing)} files of the split are missing: {', '.join(missing[:_SHOWN])}{more}"
        )
