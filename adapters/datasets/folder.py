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
        ValueError: the CSV file has another header or names a photo twice, or there is no photo.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    rows = _folder_rows(root) if labels is None else _csv_rows(Path(labels))
    if not rows:
        raise ValueError(f"{labels} names no photo" if labels else f"{root} holds no photo")
    photos, failures = [], {}
    for relative, present in sorted(rows.items()):
        photo = root / relative
        try:
            if relative.is_absolute() or ".." in relative.parts:
                raise ValueError("it lies outside the folder of photos")
            if not present:
                why = "" if labels else ": it lies in no class folder, and there is no CSV file"
                raise ValueError(f"no labels{why}")
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
        ValueError: another header or encoding, a row with more columns, or a photo that stands
            there twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be UTF-8 text: {error}") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    if reader.fieldnames != COLUMNS:
        raise ValueError(f"{file} must start with the line photo,labels; got {reader.fieldnames}")
    rows: dict[Path, list[str]] = {}
    for row in reader:
        photo = Path(row["photo"])
        if photo in rows or None in row:
            what = "stands there twice" if photo in rows else "has more than two columns"
            raise ValueError(
                f"{file}, line {reader.line_num}: photo {str(photo)!r} {what}; its classes go into"
                " one column of one row, with semicolons between"
            )
        labels = (row["labels"] or "").split(";")
        rows[photo] = [name.strip() for name in labels if name.strip()]
    return rows


def _folder_rows(root: Path) -> dict[Path, list[str]]:
    """The photos below ``root``, each with the name of the topmost folder that holds it, if any."""
    # Folder by folder, as a search of the root would not follow links to class folders.
    found = (
        path
        for top in root.iterdir()
        for path in (top.rglob("*") if top.is_dir() else [top])
        if path.suffix.lower() in SUFFIXES
    )
    return {path: list(path.parts[:-1][:1]) for path in (path.relative_to(root) for path in found)}
