"""The options that name a data set, and the photos of one of its splits."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpl_plugin.adapters.photos.data_set import DATASETS, named_photos
from vpl_plugin.adapters.pipeline.options import add_options, given_options

if TYPE_CHECKING:
    from vpl_plugin.adapters.photos.photo_set import PhotoSet

__all__ = [
    "add_data_arguments",
    "data_source",
    "listed_photos",
    "split_help",
    "split_photos",
]

# What these name goes into the digest of each photo's results, not into a run's settings.
PER_PHOTO = ("split", "labels", "masks", "instances")


def add_data_arguments(
    parser: argparse._ActionsContainer, argv: Sequence[str], *, splits: bool = False
) -> None:
    """A data set, its folder, and the options of the one that the arguments name.

    Args:
        parser: gets the options.
        argv: the command's arguments.
        splits: the command names splits and masks by options of its own.
    """
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help=f"{', '.join(DATASETS)}; with -h behind it, also its own options",
    )
    parser.add_argument(
        "--root", type=Path, required=True, help="VOC2012, COCO's folder, or a folder of photos"
    )
    chosen = _chosen(argv)
    if chosen is not None:
        data_set = DATASETS[chosen]
        own: Collection[str] = {*data_set.of_split(""), "masks"} if splits else ()
        add_options(parser, data_set.photos, leave_out=("root", *own))


def split_help(argv: Sequence[str]) -> str:
    """How the data set that the arguments name has its splits named."""
    chosen = _chosen(argv)
    if chosen is None:
        return "--dataset NAME -h says how it is named"
    about = (DATASETS[chosen].of_split.__doc__ or "").rstrip(".")
    return about[:1].lower() + about[1:]


def listed_photos(arguments: argparse.Namespace) -> PhotoSet:
    """The photos that the options name.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it names no photo, or not one photo's labels are known.
    """
    return named_photos(arguments.dataset, arguments.root, **_options(arguments))


def split_photos(arguments: argparse.Namespace, split: str, masks: str | None) -> PhotoSet:
    """The photos of a split.

    Args:
        arguments: of :func:`add_data_arguments`.
        split: as the data set's ``of_split`` takes it.
        masks: folder of the ground truth; None for the data set's own, if it has one.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it names no photo, or not one photo's labels are known.
    """
    named = DATASETS[arguments.dataset].of_split(split)
    options = {**_options(arguments), **named, "masks": masks}
    return named_photos(arguments.dataset, arguments.root, **options)


def data_source(arguments: argparse.Namespace, split: str | None = None) -> dict[str, Any]:
    """The data in words, as the stages note them in their folders."""
    options = _options(arguments)
    if split is not None:
        options.update(DATASETS[arguments.dataset].of_split(split))
    return {
        "dataset": arguments.dataset,
        "root": str(arguments.root.resolve()),
        **{name: value for name, value in options.items() if name not in PER_PHOTO},
    }


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    given = given_options(arguments, DATASETS[arguments.dataset].photos)
    return {name: value for name, value in given.items() if name != "root"}


def _chosen(argv: Sequence[str]) -> str | None:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--dataset")
    chosen = first.parse_known_args(list(argv))[0].dataset
    # An unknown one is refused where the photos are asked for.
    return chosen if chosen in DATASETS else None
