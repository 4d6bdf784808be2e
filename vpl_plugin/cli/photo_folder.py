"""A user's folder of photos and their image-level labels, from a CSV file or from folder names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vpl_plugin.adapters.datasets.folder import csv_rows, folder_rows
from vpl_plugin.clip.class_names import COCO, VOC, ClassNames

__all__ = ["LabelledPhoto", "class_names", "labelled_photos"]

DATA_SETS = {"voc": VOC, "coco": COCO}


class LabelledPhoto(NamedTuple):
    """A photo and the classes it shows.

    Attributes:
        path: of the photo.
        relative: its path below the folder; outputs are named after it.
        classes: indices of the classes present, at least one.
    """

    path: Path
    relative: Path
    classes: tuple[int, ...]


def class_names(text: str) -> ClassNames:
    """The classes that ``--classes`` names: a data set's, or a list of one's own.

    Args:
        text: "voc", "coco", or class names with commas between; the latter get VOC's background.

    Returns:
        Labels, prompts and background names.

    Raises:
        ValueError: no name is given, or one twice.

    Example:
        >>> class_names("zebra, giraffe").labels
        ('zebra', 'giraffe')
    """
    if text.lower() in DATA_SETS:
        return DATA_SETS[text.lower()]
    labels = tuple(name.strip() for name in text.split(",") if name.strip())
    return ClassNames("--classes", labels, labels, VOC.background)


def labelled_photos(
    folder: Path, names: ClassNames, labels: Path | None = None
) -> list[LabelledPhoto]:
    """The photos to work on, with their labels.

    Args:
        folder: of the photos.
        names: the classes that exist.
        labels: a CSV file with the header ``photo,labels``; a photo's path below the folder, and
            its class names with semicolons between. None: the class of a photo is the name of the
            folder right below ``folder`` that holds it.

    Returns:
        The photos, sorted by path.

    Raises:
        FileNotFoundError: the folder or the CSV file does not exist.
        ValueError: a class that ``names`` does not know, a photo without labels, no photo at all;
            all wrong rows are named at once.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    rows = csv_rows(labels) if labels is not None else folder_rows(folder)
    photos, wrong = [], []
    for relative, present in sorted(rows.items()):
        try:
            if not present:
                raise ValueError("no labels")
            classes = names.indices(dict.fromkeys(present))
            photos.append(LabelledPhoto(folder / relative, relative, tuple(classes)))
        except ValueError as error:
            wrong.append(f"{relative}: {error}")
    if wrong:
        shown = "\n  ".join(wrong[:10])
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(f"labels of {len(wrong)} photo(s) do not fit:\n  {shown}{more}")
    if not photos:
        where = f"{labels} names no photo" if labels else f"{folder} has no photo in a class folder"
        raise ValueError(where)
    return photos
