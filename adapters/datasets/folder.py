"""Any folder of photos, with labels from a CSV file or from folder names."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.clip.class_names import ClassNames

__all__ = ["folder_photos"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
COLUMNS = ["photo", "labels"]


def folder_photos(
    root: str | os.PathLike[str],
    names: ClassNames,
    labels: str | os.PathLike[str] | None = None,
    *,
    masks: str | os.PathLike[str] | None = None,
) -> PhotoSet:
    """The photos of a folder.

    Args:
        root: the folder.
        names: the classes.
        labels: a CSV file with the header ``photo,labels``: a photo's path below the folder, and
            its class names with semicolons between. None: the folder right below ``root`` that
            holds a photo names its class.
        masks: folder of ground-truth PNGs, laid out and named as the photos are.

    Returns:
        The photos, sorted by path. Missing photos, rows without labels and unknown classes are
        among its failures, not raised.

    Raises:
        FileNotFoundError: there is no such folder or CSV file.
        ValueError: the CSV file has another header, or there is no photo.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    rows = _folder_rows(root) if labels is None else _csv_rows(Path(labels))
    if not rows:
        where = f"{labels} names no photo" if labels else f"{root} has no photo in a class folder"
        raise ValueError(where)
    photos, failures = [], {}
    for relative, present in sorted(rows.items()):
        photo = root / relative
        try:
            if relative.is_absolute() or ".." in relative.parts:
                raise ValueError("it lies outside the folder of photos")
            if not present:
                raise ValueError("no labels")
            if not photo.is_file():
                raise ValueError("there is no such photo")
            classes = tuple(names.indices(dict.fromkeys(present)))
        except ValueError as error:
            failures[photo] = str(error)
            continue
        mask = Path(masks) / relative.with_suffix(".png") if masks else None
        # The suffix stays in the name, so that a.jpg and a.png keep apart.
        photos.append(SetPhoto(relative.as_posix(), photo, classes, mask))
    return PhotoSet(names, photos, failures)


def _csv_rows(file: Path) -> dict[Path, list[str]]:
    """The rows of a CSV file with the header ``photo,labels``.

    Args:
        file: a photo's path below the folder, and its class names with semicolons between.

    Returns:
        The path of each photo and the names of its classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another header.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file")
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, skipinitialspace=True)
        if reader.fieldnames != COLUMNS:
            raise ValueError(
                f"{file} must start with the line photo,labels; got {reader.fieldnames}"
            )
        return {
            Path(row["photo"]): [
                name.strip() for name in (row["labels"] or "").split(";") if name.strip()
            ]
            for row in reader
        }


def _folder_rows(root: Path) -> dict[Path, list[str]]:
    """The photos in the folders below ``root``, each with the name of the topmost one."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {path: [path.parts[0]] for path in found if len(path.parts) > 1}
