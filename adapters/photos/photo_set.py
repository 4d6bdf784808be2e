"""What a data set says of its photos, whatever its layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from vpl_plugin.clip.class_names import ClassNames

__all__ = ["PhotoSet", "SetPhoto", "frequent_reasons"]


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
        skipped: what else lies in a folder that was searched for photos: kind -> how many.
    """

    names: ClassNames
    photos: list[SetPhoto]
    failures: dict[Path, str]
    without_labels: int = 0
    skipped: Mapping[str, int] = MappingProxyType({})

    def why_empty(self) -> str:
        """Why there is no photo, for the end of a message."""
        why = frequent_reasons(self.failures)
        if self.without_labels:
            why += f"{'; ' if why else ''}{self.without_labels} show none of the classes"
        return why


def frequent_reasons(failures: Mapping[Path, str], most: int = 3) -> str:
    """The most frequent of the reasons why photos failed, each with its count and first file.

    Args:
        failures: path of a file -> what is wrong with it.
        most: how many reasons to name.

    Example:
        >>> print(frequent_reasons({Path("a.jpg"): "no labels", Path("b.jpg"): "no labels"}))
        2 files failed: no labels (2, the first a.jpg)
    """
    files: dict[str, list[Path]] = {}
    for path, why in failures.items():
        files.setdefault(why, []).append(path)
    # A reason may hold its file's own name, so that none occurs twice: sorted() keeps the order.
    reasons = sorted(files, key=lambda why: -len(files[why]))
    named = [
        f"{' '.join(why.split())} ({len(files[why])}, the first {files[why][0]})"
        for why in reasons[:most]
    ]
    if len(reasons) > most:
        named.append(f"{sum(len(files[why]) for why in reasons[most:])} for other reasons")
    return f"{len(failures)} files failed: {'; '.join(named)}" if failures else ""
