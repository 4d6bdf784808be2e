"""PASCAL VOC's layout: JPEGImages, Annotations, SegmentationClass(Aug), ImageSets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpl_plugin.adapters.photos.data_set import DATASETS, DataSet
from vpl_plugin.adapters.photos.photo_files import PhotoFolder, nearest
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.photos.split_file import read_lines
from vpl_plugin.clip.class_names import VOC, ClassNames
from vpl_plugin.errors import InputError
from vpl_plugin.localization.ground_truth import no_class_shown
from vpl_plugin.localization.mask_files import present_classes, read_mask

__all__ = ["VOCDataSet", "voc_photos"]

LABEL_SOURCES = ("annotations", "masks")


def voc_photos(
    root: str | os.PathLike[str],
    split: str | os.PathLike[str] = "train_aug",
    *,
    labels: str = "annotations",
    masks: str = "SegmentationClassAug",
    names: ClassNames = VOC,
) -> PhotoSet:
    """The photos of a split, with the classes that their annotations name.

    A photo is ``JPEGImages/NAME.jpg``, or where there is none the one with another suffix.

    Args:
        root: the folder that holds ``JPEGImages``, such as ``VOCdevkit/VOC2012``.
        split: a split file, or the name of a list in ``ImageSets/Segmentation``.
        labels: where the classes of a photo are read: "annotations" (``Annotations/*.xml``, all
            objects, the difficult ones too) or "masks" (the ground-truth masks).
        masks: folder of the ground truth below ``root``; where it does not exist,
            ``SegmentationClass`` takes its place.
        names: the classes.

    Returns:
        The photos in the order of the file. A missing file, a broken annotation and an unknown
        class are among its failures, not raised.

    Raises:
        FileNotFoundError: there is no such folder or split file.
        ValueError: the split file names no photo, or ``labels`` is something else.
    """
    root = Path(root)
    if labels not in LABEL_SOURCES:
        raise InputError(f"labels must be one of {', '.join(LABEL_SOURCES)}; got {labels!r}")
    if not (root / "JPEGImages").is_dir():
        raise FileNotFoundError(f"{root} is not in VOC's layout: it has no folder JPEGImages")
    in_folder = PhotoFolder(root / "JPEGImages")
    _, lines = read_lines(
        root,
        split,
        ["ImageSets/Segmentation", "ImageSets/Main"],
        is_photo=in_folder.__contains__,
    )
    mask_folder = root / masks if (root / masks).is_dir() else root / "SegmentationClass"
    has_masks = mask_folder.is_dir()
    photos, failures, empty = [], {}, []
    for name, _ in lines:
        photo, mask = root / "JPEGImages" / f"{name}.jpg", mask_folder / f"{name}.png"
        told_by = mask if labels == "masks" else root / "Annotations" / f"{name}.xml"
        try:
            photo = in_folder.find(name)
        except InputError as error:
            failures[photo] = str(error)
            continue
        try:
            if labels == "masks":
                classes = present_classes(read_mask(mask))
            else:
                classes = _annotated(told_by, names)
            unknown = [index for index in classes if index >= len(names.labels)]
            if unknown:
                raise InputError(f"{names.name} has no class of the label {unknown[0] + 1}")
        except FileNotFoundError:
            failures[told_by] = f"there is no such file, so the photo has no labels{_lack(told_by)}"
            continue
        except (InputError, OSError) as error:
            failures[told_by] = str(error)
            continue
        if classes:
            photos.append(SetPhoto(name, photo, tuple(classes), mask if has_masks else None))
        else:
            empty.append(mask)
    if labels == "masks" and empty and not photos:
        # Left out one by one without a word, as photos of the background alone are, they would
        # leave no trace of what is wrong with all of them.
        held = [np.unique(read_mask(mask)).tolist() for mask in empty]
        failures[mask_folder] = no_class_shown(held, len(names.labels))
    return PhotoSet(names, photos, failures, len(empty))


def _lack(file: Path) -> str:
    """What is wrong with the folder of a file that is not there."""
    folder = file.parent
    if folder.is_dir():
        return ""
    near = nearest(folder.name, (path.name for path in folder.parent.iterdir() if path.is_dir()))
    options = [near] if near else []
    if folder.name == "Annotations":
        options.append("--labels masks")
    hint = f": did you mean {' or '.join(options)}?" if options else ""
    return f", as there is no folder {folder.name}{hint}"


def _annotated(path: Path, names: ClassNames) -> list[int]:
    """The classes of an annotation, each once, in its order."""
    import xml.etree.ElementTree as ElementTree

    # Annotations come from the network: entities must neither expand nor fetch.
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        root = parse(path).getroot()
    # LookupError: of an encoding that does not exist.
    except (ElementTree.ParseError, DefusedXmlException, LookupError, RecursionError) as error:
        raise InputError(f"no readable annotation: {error}") from error
    found = (thing.findtext("name", "").strip() for thing in root.iter("object"))
    return names.indices(dict.fromkeys(found))


@DATASETS.register("voc")
class VOCDataSet(DataSet):
    """PASCAL VOC."""

    photos = staticmethod(voc_photos)

    @staticmethod
    def of_split(split: str) -> dict[str, str]:
        """A split file, or the name of a list in ImageSets/Segmentation."""
        return {"split": split}
