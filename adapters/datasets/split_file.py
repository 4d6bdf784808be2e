"""Split files: a photo a line, with or without what follows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.adapters.datasets.folder import SUFFIXES

__all__ = ["read_lines"]


def read_lines(
    root: Path, split: str | os.PathLike[str], folders: Sequence[str] = ()
) -> tuple[Path, list[tuple[str, list[str]]]]:
    """The lines of a split file.

    Args:
        root: of the data set.
        split: a path, one below ``root``, or the bare name of a list in one of ``folders``.
        folders: where the data set keeps its lists, below ``root``.

    Returns:
        The file found, and for each line the photo's name, without folders and the suffix of a
        photo, and the words after it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it names no photo, or one twice.
    """
    tried = [root / split, *(root / folder / f"{split}.txt" for folder in folders), Path(split)]
    file = next((path for path in tried if path.is_file()), None)
    if file is None:
        shown = ", ".join(str(path) for path in tried)
        raise FileNotFoundError(f"there is no split file {str(split)!r}; looked for {shown}")
    lines: dict[str, list[str]] = {}
    # Windows editors put a mark before the first line.
    text = file.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        # Some lists hold paths ("/JPEGImages/2007_000032.jpg") instead of names.
        path = Path(words[0])
        # A dot may also be part of the name.
        name = path.stem if path.suffix.lower() in SUFFIXES else path.name
        if name in lines:
            raise ValueError(f"{file}, line {number}: photo {name!r} stands there twice")
        lines[name] = words[1:]
    if not lines:
        raise ValueError(f"split file {file} names no photo")
    return file, list(lines.items())
