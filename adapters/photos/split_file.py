"""Split files: a photo a line, with or without what follows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vpl_plugin.adapters.photos.photo_files import SUFFIXES
from vpl_plugin.adapters.photos.text_file import read_text
from vpl_plugin.errors import InputError

__all__ = ["bare_name", "named_photo", "read_lines", "split_lines"]


def read_lines(
    root: Path,
    split: str | os.PathLike[str],
    folders: Sequence[str] = (),
    *,
    is_photo: Callable[[str], bool],
) -> tuple[Path, list[tuple[str, list[str]]]]:
    """The lines of a split file.

    Args:
        root: of the data set.
        split: a path, one below ``root``, or the bare name of a list in one of ``folders``.
        folders: where the data set keeps its lists, below ``root``.
        is_photo: whether there is a photo of a name, without folders and suffix.

    Returns:
        The file found, and for each line the photo's name, without folders and the suffix of a
        photo, and the words after it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8 text, names no photo, or one twice.
    """
    tried = [root / split, *(root / folder / f"{split}.txt" for folder in folders), Path(split)]
    file = next((path for path in tried if os.path.isfile(path)), None)
    if file is None:
        shown = ", ".join(str(path) for path in tried)
        raise FileNotFoundError(f"there is no split file {str(split)!r}; looked for {shown}")

    def names_one(text: str) -> bool:
        # In "JPEGImages/a.jpg SegmentationClass/a.png" the second path is not the photo's.
        folders = str(Path(text).parent)
        ended = " " in folders and is_photo(bare_name(folders.split()[0]))
        return not ended and is_photo(bare_name(text))

    lines: dict[str, list[str]] = {}
    for number, line in split_lines(file):
        text, words = named_photo(line, names_one)
        name = bare_name(text)
        if name in lines:
            raise InputError(
                f"{file}, line {number}: photo {name!r} is listed twice"
                f"{f', and there is no photo {line!r}' if words else ''}"
            )
        lines[name] = words
    return file, list(lines.items())


def split_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a list that hold something, with their numbers from 1.

    Raises:
        ValueError: it is no UTF-8 text, or names no photo.
        OSError: it cannot be read.
    """
    # Not splitlines(): a name may hold the rarer characters that it takes for the end of a line.
    lines = read_text(file).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"split file {file} names no photo")
    return found


def named_photo(line: str, is_photo: Callable[[str], bool]) -> tuple[str, list[str]]:
    """The photo that a line names, and the words after it.

    Names may hold blanks: the longest beginning of the line that names a photo is the name. Where
    there is none, it is the first word.

    Args:
        line: without blanks around it.
        is_photo: whether there is a photo of that name.

    Example:
        >>> named_photo("DJI 0001 45 49", {"DJI", "DJI 0001"}.__contains__)
        ('DJI 0001', ['45', '49'])
    """
    words = line.split()
    name = line
    for count in range(len(words), 1, -1):
        if is_photo(name):
            return name, words[count:]
        # The blanks within a name stay as they are.
        name = name[: -len(words[count - 1])].rstrip()
    return words[0], words[1:]


def bare_name(text: str) -> str:
    """A photo's name without folders and suffix; some lists hold "/JPEGImages/2007_000032.jpg".

    Example:
        >>> bare_name("/JPEGImages/2007_000032.jpg"), bare_name("take.2")
        ('2007_000032', 'take.2')
    """
    path = Path(text)
    # A dot may also be part of the name.
    return path.stem if path.suffix.lower() in SUFFIXES else path.name
