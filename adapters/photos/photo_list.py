"""A list of photos, by names or by paths below their folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vpl_plugin.adapters.photos.photo_files import nearest
from vpl_plugin.adapters.photos.split_file import named_photo, split_lines
from vpl_plugin.errors import InputError

__all__ = ["listed_photos"]


def listed_photos(listed: Path, photos: Sequence[Path], folders: Sequence[str] = ()) -> list[Path]:
    """The photos that a list names.

    A line is a path below the folder of photos, with or without the suffix; folders before it, as
    in VOC's "/JPEGImages/2007_000032.jpg", may stay. Names may hold blanks.

    Args:
        listed: the list, a photo per line; words after it are not read.
        photos: paths below the folder.
        folders: names of the folders that the photos lie in.

    Returns:
        The photos in the order of the list.

    Raises:
        FileNotFoundError: there is no such list, or photos of it are not there.
        ValueError: it is no UTF-8 text, names no photo or one twice, or a line may mean several.
    """
    if not listed.is_file():
        raise FileNotFoundError(f"there is no list {listed}")
    by_path: dict[str, list[Path]] = {}
    for photo in photos:
        by_path.setdefault(photo.with_suffix("").as_posix(), []).append(photo)
    # A whole path means that one photo alone.
    by_path |= {photo.as_posix(): [photo] for photo in photos}
    tops = {photo.parts[0] for photo in photos if len(photo.parts) > 1}

    def meant(text: str) -> list[Path]:
        parts = PurePosixPath(text.lstrip("/")).parts
        for start in range(len(parts)):
            found = by_path.get("/".join(parts[start:]))
            # In "JPEGImages/a.jpg SegmentationClass/a.png" the second path is not the photo's.
            ended = " " in "/".join(parts[:start]) and parts[start - 1] not in folders
            if found and not ended:
                return found
            if parts[start] in tops:
                # A folder below theirs is part of the name.
                return []
        return []

    found: dict[Path, None] = {}
    missing = []
    for number, line in split_lines(listed):
        text, _ = named_photo(line, lambda text: bool(meant(text)))
        named = meant(text)
        if not named:
            missing.append(text)
        elif len(named) > 1:
            raise InputError(
                f"{listed}, line {number}: {text!r} may be"
                f" {' or '.join(photo.as_posix() for photo in named)}: write which"
            )
        elif named[0] in found:
            raise InputError(f"{listed}, line {number}: photo {text!r} is listed twice")
        else:
            found[named[0]] = None
    if missing:
        close = nearest(missing[0], by_path)
        hint = f": did you mean {close}?" if close else ""
        raise FileNotFoundError(
            f"{len(missing)} of the photos in {listed} are not there, such as {missing[0]}{hint}"
        )
    return list(found)
