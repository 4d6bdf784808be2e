"""Which files of a folder are photos, and which photo a name means."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from vpl_plugin.errors import InputError

__all__ = [
    "SUFFIXES",
    "PhotoFiles",
    "PhotoFolder",
    "is_photo_name",
    "list_photos",
    "nearest",
    "skipped_files",
    "truth_of",
]

# Pillow reads more, such as PDF's kin and weather maps, which nobody keeps photos in.
_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}
)
SUFFIXES = frozenset(
    suffix for suffix, kind in Image.registered_extensions().items() if kind in _FORMATS
)
"""The suffixes of photos, in lower case."""

# What operating systems, archives and network storage leave in folders, besides hidden files.
_SYSTEM = frozenset(
    {
        *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "thumbs.db", "desktop.ini"),
    }
)
# Kinds of files that a message names; names that are compared with a wrong one.
_KINDS, _COMPARED = 8, 20_000


class PhotoFiles(NamedTuple):
    """What lies in a folder.

    Attributes:
        photos: paths below the folder, sorted.
        skipped: what else lies there: kind (a suffix, or a hidden or system name) -> how many.
    """

    photos: list[Path]
    skipped: Mapping[str, int]


def is_photo_name(name: str) -> bool:
    """Whether a file of that name may be a photo: by its suffix, and not hidden.

    Example:
        >>> [is_photo_name(name) for name in ("1.JPG", "1.avif", "._1.jpg", "1.txt")]
        [True, True, False, False]
    """
    return not _is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def list_photos(folder: str | os.PathLike[str]) -> PhotoFiles:
    """The photos in a folder and the folders below it.

    Hidden files and folders, and those of operating systems (``.ipynb_checkpoints``, ``@eaDir``,
    ``__MACOSX``, ``._1.jpg``), are no photos, nor is a folder that ends in .jpg. Links to folders
    right below ``folder`` are followed.
    """
    photos: list[Path] = []
    skipped: Counter[str] = Counter()

    def visit(path: Path) -> None:
        for here, folders, files in os.walk(path):
            below = Path(here).relative_to(folder)
            hidden = [name for name in folders if _is_hidden(name)]
            skipped.update(f"{name}/" for name in hidden)
            folders[:] = [name for name in folders if name not in hidden]
            take(below, files)

    def take(below: Path, files: Iterable[str]) -> None:
        for name in files:
            if is_photo_name(name):
                photos.append(below / name)
            else:
                skipped[_kind(name)] += 1

    # Folder by folder, as a walk from the root would not follow links to class folders.
    folder = Path(folder)
    for name in os.listdir(folder):
        if not os.path.isdir(folder / name):
            take(Path(), [name])
        elif _is_hidden(name):
            skipped[f"{name}/"] += 1
        else:
            visit(folder / name)
    return PhotoFiles(sorted(photos), dict(skipped))


def skipped_files(skipped: Mapping[str, int]) -> str:
    """What was skipped, in words.

    Example:
        >>> skipped_files({".heic": 3, "._*": 1})
        '4 that are no photos that can be read: 3 of .heic, 1 of ._*'
    """
    kinds = sorted(skipped, key=lambda kind: (-skipped[kind], kind))
    named = [f"{skipped[kind]} of {kind}" for kind in kinds[:_KINDS]]
    if len(kinds) > _KINDS:
        named.append(f"{sum(skipped[kind] for kind in kinds[_KINDS:])} of other kinds")
    return f"{sum(skipped.values())} that are no photos that can be read: {', '.join(named)}"


class PhotoFolder:
    """The photos right in a folder, by their names without suffix, as VOC and COCO name them.

    Args:
        folder: it is read once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._photos: dict[str, list[str]] = {}
        self._others: dict[str, str] = {}
        self._hints = 3
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                # A link's own is_file() raises where it leads round in a circle.
                is_file = os.path.isfile(entry) if entry.is_symlink() else entry.is_file()
                if is_file and is_photo_name(entry.name):
                    self._photos.setdefault(stem, []).append(entry.name)
                elif is_file and suffix:
                    self._others[stem] = entry.name

    def __contains__(self, name: object) -> bool:
        return name in self._photos

    def find(self, name: str) -> Path:
        """The photo of a name.

        Where there are several, the .jpg of the data sets' own layouts is it.

        Raises:
            ValueError: there is none, or there are several and no .jpg; the message says so.
        """
        found = sorted(self._photos.get(name, ()))
        if f"{name}.jpg" in found:
            return self._folder / f"{name}.jpg"
        if len(found) > 1:
            raise InputError(f"{' and '.join(found)} share the name {name!r}: leave only one there")
        if not found:
            raise InputError(f"there is no such photo{self._hint(name)}")
        return self._folder / found[0]

    def _hint(self, name: str) -> str:
        if name in self._others:
            return f": {self._others[name]} is in no format that is read"
        # Comparing takes time, and whoever has read three hints knows.
        if not self._hints:
            return ""
        self._hints -= 1
        close = nearest(name, self._photos)
        return f": did you mean {self._photos[close][0]}?" if close else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that is most like another, or None.

    Example:
        >>> nearest("Img_1", ["img_1", "img_2"])
        'img_1'
    """
    names = list(names)
    folded = name.casefold()
    for other in names:
        if other.casefold() == folded:
            return other
    if len(names) > _COMPARED:
        return None
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return close[0] if close else None


def truth_of(masks: Path, photo: Path, shared: bool = False) -> Path:
    """The ground truth of a photo, laid out and named as the photos are.

    Args:
        masks: folder of the masks.
        photo: path below the folder of photos.
        shared: another photo has this one's name with another suffix.

    Returns:
        ``a.jpg.png`` where it exists, else ``a.png``.

    Raises:
        ValueError: ``a.jpg`` and ``a.png`` would share ``a.png``.
    """
    own = masks / f"{photo}.png"
    if own.is_file():
        return own
    if shared:
        raise InputError(
            f"another photo has this name with another suffix, and {photo.stem}.png would be the"
            f" ground truth of both: name that of this one {photo.name}.png"
        )
    return masks / photo.with_suffix(".png")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _kind(name: str) -> str:
    if name.startswith("._"):
        return "._*"
    return name if _is_hidden(name) else PurePosixPath(name).suffix.lower() or "no suffix"
