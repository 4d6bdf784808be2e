"""The options that name a data set, and the photos of one of its splits."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpl_plugin.cli.model_options import model_source

if TYPE_CHECKING:
    from vpl_plugin.adapters.datasets import PhotoSet

__all__ = ["SPLIT_HELP", "add_data_arguments", "data_source", "named_photos", "split_photos"]

logger = logging.getLogger(__name__)

SPLIT_HELP = (
    "VOC: split file, or the name of a list in ImageSets/Segmentation; COCO: folder of photos,"
    " with FOLDER:LIST those of a label list as CLIP-ES has it; folder: a CSV with the header"
    " photo,labels"
)


def add_data_arguments(parser: argparse._ActionsContainer) -> None:
    """What holds for every split of a data set."""
    parser.add_argument("--dataset", choices=("voc", "coco", "folder"), required=True)
    parser.add_argument(
        "--root", type=Path, required=True, help="VOC2012, COCO's folder, or a folder of photos"
    )
    parser.add_argument(
        "--labels",
        choices=("annotations", "masks"),
        default="annotations",
        help="VOC: where the classes of a photo are read (default: annotations)",
    )
    parser.add_argument("--classes", help='folder: "voc", "coco", or names with commas between')


def named_photos(
    dataset: str,
    root: Path,
    *,
    split: str | None = None,
    labels: str | None = None,
    classes: str | None = None,
    masks: str | None = None,
    subset: str = "train2014",
    instances: Path | None = None,
) -> PhotoSet:
    """The photos of a data set that options name; an option left out takes its default.

    Args:
        dataset: "voc", "coco" or "folder".
        root: its folder.
        split: VOC: the split; COCO: a label list.
        labels: VOC: "annotations" or "masks"; folder: a CSV file.
        classes: folder: "voc", "coco", or names with commas between.
        masks: folder of the ground truth, for VOC and COCO below ``root``; None for the data set's
            own, if it has one.
        subset: COCO: folder of photos.
        instances: COCO: instance JSON.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it names no photo, not one photo's labels are known (the message has the most
            frequent reasons), ``classes`` is missing, or a folder is given a split.
    """
    from vpl_plugin.adapters.datasets import coco_photos, folder_photos, voc_photos
    from vpl_plugin.adapters.datasets.photo_files import skipped_files
    from vpl_plugin.cli.class_option import class_names

    if masks is not None:
        # The data sets take another folder, or none, where the one named is not there.
        folder = Path(masks) if dataset == "folder" else root / masks
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder of ground truth {folder}")
    if dataset == "voc":
        photos = voc_photos(
            root,
            split or "train_aug",
            labels=labels or "annotations",
            masks=masks or "SegmentationClassAug",
        )
    elif dataset == "coco":
        photos = coco_photos(
            root, subset, instances=instances, split=split, masks=masks or "SegmentationClass"
        )
    else:
        if not classes:
            raise ValueError("--dataset folder takes --classes")
        if split is not None:
            raise ValueError("--dataset folder takes no --split: its photos are those of --labels")
        photos = folder_photos(root, class_names(classes), labels, masks=masks)
    if photos.skipped:
        logger.info("%s: skipped %s", root, skipped_files(photos.skipped))
    if photos.without_labels:
        logger.info("%d photos show none of the classes and are left out", photos.without_labels)
    if not photos.photos:
        # VOC's labels are a word; what was asked for is a split.
        asked = (split, labels) if dataset == "voc" else (labels, split)
        where = next(filter(None, asked), root)
        raise ValueError(f"{where} has no photo whose labels are known: {photos.why_empty()}")
    return photos


def split_photos(arguments: argparse.Namespace, split: str, masks: str | None) -> PhotoSet:
    """The photos of a split.

    Args:
        arguments: of :func:`add_data_arguments`.
        split: as SPLIT_HELP says.
        masks: folder of the ground truth; None for the data set's own, if it has one.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it names no photo, or not one photo's labels are known.
    """
    dataset, root = arguments.dataset, arguments.root
    if dataset == "voc":
        return named_photos(dataset, root, split=split, labels=arguments.labels, masks=masks)
    if dataset == "coco":
        subset, _, listed = split.partition(":")
        return named_photos(dataset, root, split=listed or None, subset=subset, masks=masks)
    return named_photos(dataset, root, labels=split, classes=arguments.classes, masks=masks)


def data_source(arguments: argparse.Namespace, split: str) -> dict[str, Any]:
    """Data and model in words, as vpl-clip-es notes them in the folders of its stages."""
    # vpl-clip-es notes what was asked for, and nothing for its default.
    labels = {"voc": "masks" if arguments.labels == "masks" else None, "folder": split}
    return {
        "dataset": arguments.dataset,
        "root": str(arguments.root.resolve()),
        "labels": labels.get(arguments.dataset),
        "classes": arguments.classes,
        "subset": split.partition(":")[0] if arguments.dataset == "coco" else None,
        **model_source(arguments),
    }
