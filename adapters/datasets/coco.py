"""COCO's layout: photos in train2014 and val2014, labels in an instance JSON or in a list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.photos.data_set import DATASETS, DataSet
from vpl_plugin.adapters.photos.photo_files import PhotoFolder
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.photos.split_file import read_lines
from vpl_plugin.clip.class_names import COCO, ClassNames
from vpl_plugin.errors import InputError

__all__ = ["COCODataSet", "coco_photos"]


def coco_photos(
    root: str | os.PathLike[str],
    subset: str = "train2014",
    *,
    instances: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    masks: str = "SegmentationClass",
    names: ClassNames = COCO,
) -> PhotoSet:
    """The photos of a subset, with their classes.

    A photo is ``NAME.jpg``, or where there is none the one with another suffix.

    Args:
        root: the folder that holds ``JPEGImages/<subset>`` or ``<subset>``.
        subset: "train2014" or "val2014".
        instances: the instance JSON; None is ``annotations/instances_<subset>.json`` below
            ``root``.
        split: a label list instead, such as CLIP-ES brings: a photo a line, followed by the
            indices of its classes from 0. A list without indices picks photos of the JSON.
        masks: folder of the ground truth below ``root``, with or without the subset in it.
        names: the classes.

    Returns:
        The photos. Missing photos and unknown classes are among its failures, not raised; photos
        without any object are left out and counted.

    Raises:
        FileNotFoundError: there is no such folder, JSON or list.
        ValueError: the JSON is none of COCO's, or the list names no photo.
    """
    root = Path(root)
    folder = next(
        (path for path in (root / "JPEGImages" / subset, root / subset) if path.is_dir()), None
    )
    if folder is None:
        raise FileNotFoundError(
            f"{root} is not in COCO's layout: it has neither JPEGImages/{subset} nor {subset}"
        )
    mask_folder = next(
        (path for path in (root / masks / subset, root / masks) if path.is_dir()), None
    )
    in_folder = PhotoFolder(folder)
    lines = None
    if split is not None:
        _, lines = read_lines(root, split, is_photo=in_folder.__contains__)
    failures: dict[Path, str] = {}
    if lines is not None and any(words for _, words in lines):
        listed = {name: _from_list(name, words, names, folder, failures) for name, words in lines}
    else:
        file = Path(instances) if instances else root / "annotations" / f"instances_{subset}.json"
        listed = _from_json(file, names, folder, failures)
        if lines is not None:
            wanted = {name for name, _ in lines}
            failures = {
                path: why for path, why in failures.items() if path.stem in wanted or path == file
            }
            picked = {}
            for name, _ in lines:
                if name in listed:
                    picked[name] = listed[name]
                else:
                    failures[folder / f"{name}.jpg"] = f"{file} does not name this photo"
            listed = picked
    photos, empty = [], 0
    for name, classes in listed.items():
        if classes is None:
            continue
        if not classes:
            empty += 1
            continue
        try:
            photo = in_folder.find(name)
        except InputError as error:
            failures[folder / f"{name}.jpg"] = str(error)
            continue
        mask = mask_folder / f"{name}.png" if mask_folder else None
        photos.append(SetPhoto(name, photo, tuple(classes), mask))
    return PhotoSet(names, photos, failures, empty)


def _from_list(
    name: str, words: list[str], names: ClassNames, folder: Path, failures: dict[Path, str]
) -> list[int] | None:
    known = {str(index) for index in range(len(names.labels))}
    wrong = [word for word in words if word not in known]
    if wrong:
        by_name = {label: index for index, label in enumerate(names.labels)}
        hint = f"; did you mean {by_name[wrong[0]]}?" if wrong[0] in by_name else ""
        failures[folder / f"{name}.jpg"] = (
            f"{names.name} has no class {wrong[0]!r}: the list takes indices from 0 to"
            f" {len(names.labels) - 1}{hint}"
        )
        return None
    return [int(word) for word in dict.fromkeys(words)]


def _from_json(
    file: Path, names: ClassNames, folder: Path, failures: dict[Path, str]
) -> dict[str, list[int] | None]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no instance file {file}")
    try:
        held: Any = json.loads(file.read_bytes())
        labels = {entry["id"]: entry["name"] for entry in held["categories"]}
        stems = {entry["id"]: Path(entry["file_name"]).stem for entry in held["images"]}
        pairs = [(entry["image_id"], entry["category_id"]) for entry in held["annotations"]]
        # What cannot be an id or a name would fail where it is looked up.
        hash((*labels.values(), *pairs))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} is no instance file of COCO (images, annotations, categories): {error!r}"
        ) from error
    del held
    position = {label: index for index, label in enumerate(names.labels)}
    found: dict[str, dict[int, None] | None] = {}
    for name in stems.values():
        if name in found:
            failures[folder / f"{name}.jpg"] = f"{file} lists two images of this name"
        found[name] = None if name in found else {}
    strays: list[Any] = []
    for image, category in pairs:
        stem, label = stems.get(image), labels.get(category)
        if stem is None:
            strays.append(image)
            continue
        classes = found[stem]
        if classes is None:
            continue
        if label not in position:
            failures[folder / f"{stem}.jpg"] = (
                f"{names.name} has no class {label!r} (category {category!r} of {file}"
                f"{_as_other(category, labels)})"
            )
            found[stem] = None
        else:
            classes[position[label]] = None
    if strays:
        failures[file] = (
            f"{len(strays)} annotations are of images that are not listed, the first of image"
            f" {strays[0]!r}{_as_other(strays[0], stems)}"
        )
    return {stem: None if classes is None else list(classes) for stem, classes in found.items()}


def _as_other(identity: Any, known: dict[Any, Any]) -> str:
    """A hint where an id is text here and a number there."""
    for other in known:
        if str(other) == str(identity) and other != identity:
            kinds = "a number" if isinstance(identity, str) else "text"
            return f": did you mean {other!r}, {kinds}? An id is the same in all lists"
    return ""


@DATASETS.register("coco")
class COCODataSet(DataSet):
    """MS COCO."""

    photos = staticmethod(coco_photos)

    @staticmethod
    def of_split(split: str) -> dict[str, str]:
        """A folder of photos, with FOLDER:LIST those of a label list as CLIP-ES has it."""
        subset, _, listed = split.partition(":")
        return {"subset": subset, **({"split": listed} if listed else {})}
