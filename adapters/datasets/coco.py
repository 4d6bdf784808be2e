"""COCO's layout: photos in train2014 and val2014, labels in an instance JSON or in a list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.datasets.split_file import read_lines
from vpl_plugin.clip.class_names import COCO, ClassNames

__all__ = ["coco_photos"]


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
    lines = read_lines(root, split)[1] if split is not None else None
    failures: dict[Path, str] = {}
    if lines is not None and any(words for _, words in lines):
        listed = {name: _from_list(name, words, names, folder, failures) for name, words in lines}
    else:
        file = Path(instances) if instances else root / "annotations" / f"instances_{subset}.json"
        listed = _from_json(file, names, folder, failures)
        if lines is not None:
            wanted = {name for name, _ in lines}
            failures = {path: why for path, why in failures.items() if path.stem in wanted}
            picked = {}
            for name, _ in lines:
                if name in listed:
                    picked[name] = listed[name]
                else:
                    failures[folder / f"{name}.jpg"] = f"{file} does not name this photo"
            listed = picked
    photos, empty = [], 0
    for name, classes in listed.items():
        photo = folder / f"{name}.jpg"
        if classes is None:
            continue
        if not classes:
            empty += 1
        elif not photo.is_file():
            failures[photo] = "there is no such photo"
        else:
            mask = mask_folder / f"{name}.png" if mask_folder else None
            photos.append(SetPhoto(name, photo, tuple(classes), mask))
    return PhotoSet(names, photos, failures, empty)


def _from_list(
    name: str, words: list[str], names: ClassNames, folder: Path, failures: dict[Path, str]
) -> list[int] | None:
    known = {str(index) for index in range(len(names.labels))}
    wrong = [word for word in words if word not in known]
    if wrong:
        failures[folder / f"{name}.jpg"] = (
            f"{names.name} has no class {wrong[0]!r}: the list takes indices from 0 to"
            f" {len(names.labels) - 1}"
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
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no instance file of COCO (images, annotations, categories): {error!r}"
        ) from error
    del held
    position = {label: index for index, label in enumerate(names.labels)}
    found: dict[str, dict[int, None] | None] = {stem: {} for stem in stems.values()}
    for image, category in pairs:
        stem, label = stems.get(image), labels.get(category)
        if stem is None:
            failures[file] = f"an annotation is of image {image}, which is not listed"
            continue
        classes = found[stem]
        if label not in position:
            failures[folder / f"{stem}.jpg"] = (
                f"{names.name} has no class {label!r} (category {category} of {file})"
            )
            found[stem] = None
        elif classes is not None:
            classes[position[label]] = None
    return {stem: None if classes is None else list(classes) for stem, classes in found.items()}
