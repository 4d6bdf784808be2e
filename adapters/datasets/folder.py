"""Any folder of photos, with labels from a CSV file or from folder names."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from vpl_plugin.adapters.photos.data_set import DATASETS, DataSet
from vpl_plugin.adapters.photos.photo_files import (
    list_photos,
    nearest,
    skipped_files,
    truth_of,
)
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.photos.text_file import read_text
from vpl_plugin.clip.class_names import ClassNames
from vpl_plugin.clip.named_classes import class_names
from vpl_plugin.errors import InputError

__all__ = ["FolderDataSet", "folder_photos"]

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
        masks: folder of ground-truth PNGs, laid out and named as the photos are: that of
            ``x/a.jpg`` is ``x/a.jpg.png`` where it exists, else ``x/a.png``.

    Returns:
        The photos, sorted by path. Missing photos, rows without labels and unknown classes are
        among its failures, not raised.

    Raises:
        FileNotFoundError: there is no such folder or CSV file.
        ValueError: the CSV file is no UTF-8 text, has another header or names a photo twice, or
            there is no photo.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    rows: Mapping[Path, list[str]]
    skipped: Mapping[str, int] = {}
    if labels is not None:
        rows = _csv_rows(Path(labels))
        if not rows:
            raise InputError(f"{labels} names no photo")
    else:
        rows, skipped = _folder_rows(root)
        if not rows:
            more = f"; there are {skipped_files(skipped)}" if skipped else ""
            raise InputError(f"{root} holds no photo{more}")
    stems = Counter(relative.with_suffix("") for relative in rows if relative.name)
    photos, failures = [], {}
    missing = _Missing(root)
    for relative, present in sorted(rows.items()):
        photo = root / relative
        try:
            _check_path(relative)
            if not present:
                why = "" if labels else ": it lies in no class folder, and there is no CSV file"
                raise InputError(f"no labels{why}")
            if not os.path.isfile(photo):
                raise InputError(f"there is no such photo{missing.hint(relative)}")
            classes = tuple(names.indices(dict.fromkeys(present)))
            shared = stems[relative.with_suffix("")] > 1
            mask = truth_of(Path(masks), relative, shared) if masks else None
        except InputError as error:
            failures[photo] = str(error)
            continue
        # The suffix stays in the name, so that a.jpg and a.png keep apart.
        photos.append(SetPhoto(relative.as_posix(), photo, classes, mask))
    return PhotoSet(names, photos, failures, skipped=skipped)


def _check_path(relative: Path) -> None:
    if not relative.name:
        raise InputError("a row has labels and no photo")
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError("it lies outside the folder of photos")
    try:
        # Names of files need not be text; the names of outputs, and lists of photos, are.
        str(relative).encode()
    except UnicodeEncodeError as error:
        raise InputError("its name is no UTF-8 text: rename it") from error


class _Missing:
    """What paths that lead to no photo may have meant."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[Path]] | None = None
        self._compared = 0

    def hint(self, relative: Path) -> str:
        close = self._close(relative)
        return f": did you mean {close.as_posix()}?" if close else ""

    def _close(self, relative: Path) -> Path | None:
        parts = relative.as_posix().replace("\\", "/").split("/")
        # A prefix too many, as of the folder itself.
        for start in range(len(parts)):
            path = Path(*parts[start:])
            if path != relative and os.path.isfile(self._root / path):
                return path
        if self._by_name is None:
            self._by_name = {}
            for path in list_photos(self._root).photos:
                self._by_name.setdefault(path.name.casefold(), []).append(path)
                self._by_name.setdefault(path.stem.casefold(), []).append(path)
        for key in (Path(parts[-1]).name, Path(parts[-1]).stem):
            found = self._by_name.get(key.casefold())
            if found:
                return found[0]
        # Comparing takes time, and whoever has read three hints knows.
        self._compared += 1
        close = nearest(parts[-1].casefold(), self._by_name) if self._compared <= 3 else None
        return self._by_name[close][0] if close else None


def _csv_rows(file: Path) -> dict[Path, list[str]]:
    """The rows of a CSV file with the header ``photo,labels``.

    Args:
        file: a photo's path below the folder, and its class names with semicolons between.

    Returns:
        The path of each photo and the names of its classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another header or encoding, a row with more columns, or a photo that is
            listed twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file")
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), skipinitialspace=True)
    rows: dict[Path, list[str]] = {}
    try:
        if reader.fieldnames != COLUMNS:
            raise InputError(
                f"{file} must start with the line photo,labels; got {reader.fieldnames}"
            )
        for row in reader:
            labels = [name.strip() for name in (row["labels"] or "").split(";") if name.strip()]
            photo = Path(row["photo"])
            if not photo.name:
                # Spreadsheets leave empty rows behind; one with labels is a failure like others.
                if labels:
                    rows[photo] = labels
                continue
            if photo in rows or None in row:
                what = "is listed twice" if photo in rows else "has more than two columns"
                raise InputError(
                    f"{file}, line {reader.line_num}: photo {str(photo)!r} {what}; its classes go"
                    " into one column of one row, with semicolons between"
                )
            rows[photo] = labels
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}, is no CSV: {error}") from error
    return rows


def _folder_rows(root: Path) -> tuple[dict[Path, list[str]], Mapping[str, int]]:
    """The photos below ``root``, each with the name of the topmost folder that holds it, if any."""
    found = list_photos(root)
    return {path: list(path.parts[:-1][:1]) for path in found.photos}, found.skipped


@DATASETS.register("folder")
class FolderDataSet(DataSet):
    """Any folder of photos."""

    @staticmethod
    def photos(
        root: Path, classes: str, labels: str | None = None, masks: str | None = None
    ) -> PhotoSet:
        """See :func:`folder_photos`.

        Args:
            root: the folder.
            classes: "voc", "coco", or names with commas between.
            labels: a CSV file with the header photo,labels; labels with semicolons between. By
                default the sub-folder's name is the label.
            masks: folder of ground-truth PNGs.
        """
        return folder_photos(root, class_names(classes), labels, masks=masks)

    @staticmethod
    def of_split(split: str) -> dict[str, str]:
        """A CSV file with the header photo,labels."""
        return {"labels": split}
