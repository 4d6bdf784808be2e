"""The photos that a decoder is to segment, with the labels and the ground truth there are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.adapters.photos.photo_files import SUFFIXES, list_photos, skipped_files, truth_of
from vpl_plugin.adapters.photos.photo_list import listed_photos
from vpl_plugin.clip import ClassNames
from vpl_plugin.errors import InputError
from vpl_plugin.localization.ground_truth import check_shows_classes

__all__ = ["ListedPhoto", "list_to_segment"]

logger = logging.getLogger(__name__)


class ListedPhoto(NamedTuple):
    """A photo to segment.

    Attributes:
        photo: its path.
        classes: the only foreground classes that may be there; None allows all.
        truth: its ground truth; None where none is known.
    """

    photo: Path
    classes: tuple[int, ...] | None = None
    truth: Path | None = None


def list_to_segment(
    given: Sequence[Path],
    classes: tuple[str, ...],
    failures: dict[Path, str],
    *,
    listed: Path | None = None,
    labels: Path | None = None,
    masks: Path | None = None,
    leave_out: Sequence[Path] = (),
) -> dict[Path, ListedPhoto]:
    """The photos by the name that their files get: the path below the folder given.

    Args:
        given: photos, and folders of photos.
        classes: the F foreground names.
        failures: gets the photos whose labels or ground truth cannot be had.
        listed: file with a name, or a path below the folder, per line: only these.
        labels: CSV with the header photo,labels: only its photos, and of each only the classes
            named.
        masks: folder of ground-truth PNGs.
        leave_out: folders below those given that hold no photos.

    Raises:
        FileNotFoundError: there is no such photo, folder or file.
        InputError: there is no photo, or two would get the same name; a file cannot be read; the
            ground truth shows no class.
    """
    photos = _photos(given, leave_out)
    if listed is not None:
        names = listed_photos(listed, list(photos), [path.resolve().name for path in given])
        photos = {name: photos[name] for name in names}
    allowed: dict[Path, tuple[int, ...]] = {}
    if labels is not None:
        allowed = _allowed(given, labels, classes, failures)
        photos = {name: path for name, path in photos.items() if path in allowed}
        if not photos:
            raise InputError(f"not one photo of {labels} is among those to segment")
    truths: dict[Path, Path] = {}
    if masks is not None:
        if not masks.is_dir():
            raise FileNotFoundError(f"{masks} is no folder of ground truth")
        truths = _truths(photos, masks, failures)
        check_shows_classes(truths.values(), len(classes))
    return {
        name: ListedPhoto(path, allowed.get(path), truths.get(name))
        for name, path in photos.items()
    }


def _photos(given: Sequence[Path], leave_out: Sequence[Path]) -> dict[Path, Path]:
    written = [folder.resolve() for folder in leave_out]
    found: dict[Path, Path] = {}
    for path in given:
        if path.is_dir():
            inside = list_photos(path)
            named = {
                photo: path / photo
                for photo in inside.photos
                if not any(map((path / photo).resolve().is_relative_to, written))
            }
            if inside.skipped:
                logger.info("%s: skipped %s", path, skipped_files(inside.skipped))
        elif path.is_file():
            named = {Path(path.name): path}
        else:
            raise FileNotFoundError(f"there is no photo or folder {path}")
        twice = [name for name in named if name in found and found[name] != named[name]]
        if twice:
            raise InputError(
                f"{found[twice[0]]} and {named[twice[0]]} would get the same name: segment them"
                " with different --output"
            )
        found.update(named)
    if not found:
        shown = ", ".join(str(path) for path in given)
        raise InputError(f"there is no photo in {shown}; known are {', '.join(sorted(SUFFIXES))}")
    return found


def _allowed(
    given: Sequence[Path], labels: Path, classes: tuple[str, ...], failures: dict[Path, str]
) -> dict[Path, tuple[int, ...]]:
    """The classes of each photo that the CSV file names."""
    if len(given) != 1 or not given[0].is_dir():
        raise InputError("--labels takes one folder of photos, which its paths lie in")
    listed = folder_photos(given[0], ClassNames("the decoder", classes, classes, ()), labels)
    if not listed.photos:
        raise InputError(f"{labels} has no photo whose labels are known: {listed.why_empty()}")
    failures.update(listed.failures)
    return {item.photo: item.classes for item in listed.photos}


def _truths(photos: dict[Path, Path], masks: Path, failures: dict[Path, str]) -> dict[Path, Path]:
    """The ground truth of each photo, by its name."""
    stems = Counter(name.with_suffix("") for name in photos)
    truths = {}
    for name, path in photos.items():
        try:
            truths[name] = truth_of(masks, name, shared=stems[name.with_suffix("")] > 1)
        except InputError as error:
            failures[path] = f"not scored: {error}"
    return truths
