"""What a data set is to the commands, and the registry of those there are."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vpl_plugin.errors import InputError
from vpl_plugin.registry import Registry

if TYPE_CHECKING:
    from vpl_plugin.adapters.photos.photo_set import PhotoSet

__all__ = ["DATASETS", "DataSet", "named_photos"]


class DataSet(ABC):
    """A layout of photos and labels on disk.

    Register a subclass under a name, in the file of that name in ``adapters/datasets`` or in a
    package of your own that offers it as an entry point of the group ``vpl_plugin.datasets``::

        @DATASETS.register("mine")
        class Mine(DataSet):
            @staticmethod
            def photos(root: Path, split: str = "train") -> PhotoSet: ...

            @staticmethod
            def of_split(split: str) -> dict[str, str]:
                return {"split": split}

    Commands then take ``--dataset mine``. The parameters of ``photos`` beyond ``root`` are their
    options, with their defaults and what the docstring says of them.

    Attributes:
        photos: a static method: the photos below a folder, and options by name.
    """

    photos: ClassVar[Callable[..., PhotoSet]]

    @staticmethod
    @abstractmethod
    def of_split(split: str) -> Mapping[str, str]:
        """The options of ``photos`` that name a split, as ``--train`` and ``--val`` have it.

        The docstring of a data set's own is the help of ``--train``: what names a split.
        """


logger = logging.getLogger(__name__)

# Listing the names imports none of the files.
DATASETS: Registry[type[DataSet]] = Registry(
    "dataset", package="vpl_plugin.adapters.datasets", group="vpl_plugin.datasets"
)


def named_photos(dataset: str, root: Path, **options: Any) -> PhotoSet:
    """The photos of a data set, of which there must be one.

    Args:
        dataset: its name.
        root: its folder.
        **options: of its ``photos``; None stands for the default.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: there is no such data set or option, or not one photo's labels are known; the
            message has the most frequent reasons.
    """
    from vpl_plugin.adapters.photos.photo_files import skipped_files

    photos_of = DATASETS[dataset].photos
    options = {name: value for name, value in options.items() if value is not None}
    parameters = inspect.signature(photos_of).parameters
    for name in options:
        if name not in parameters:
            raise InputError(f"--dataset {dataset} takes no --{name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in ("root", *options):
            raise InputError(f"--dataset {dataset} takes --{name}")
    if "masks" in options:
        # A data set takes another folder, or none, where the one named is not there.
        folders = (root / options["masks"], Path(options["masks"]))
        if not any(folder.is_dir() for folder in folders):
            raise FileNotFoundError(f"there is no folder of ground truth {folders[0]}")
    photos = photos_of(root, **options)
    if photos.skipped:
        logger.info("%s: skipped %s", root, skipped_files(photos.skipped))
    if photos.without_labels:
        logger.info("%d photos show none of the classes and are left out", photos.without_labels)
    if not photos.photos:
        asked = [options[key] for key in ("split", "labels") if options.get(key)]
        where = (asked or [root])[0]
        raise InputError(f"{where} has no photo whose labels are known: {photos.why_empty()}")
    return photos
