"""What a data set tells of its photos, whatever its layout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vpl_plugin.clip.class_names import ClassNames

__all__ = ["PhotoSet", "SetPhoto"]


class SetPhoto(NamedTuple):
    """A photo of a set.

    Attributes:
        name: unique in the set; output files are named after it. May hold slashes.
        photo: path of the photo.
        classes: indices of the classes present, at least one.
        mask: path where its ground truth would lie, or None where the set has none.
    """

    name: str
    photo: Path
    classes: tuple[int, ...]
    mask: Path | None


class PhotoSet(NamedTuple):
    """The photos of a set whose labels are known, and why those of others are not.

    Attributes:
        names: the classes.
        photos: in the set's order.
        failures: path of a file that is missing or wrong -> what is wrong with it.
        without_labels: how many photos show none of the classes; they have no CAMs.
    """

    names: ClassNames
    photos: list[SetPhoto]
    failures: dict[Path, str]
    without_labels: int = 0
