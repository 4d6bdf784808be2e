"""What mIoU needs of each photo, on disk: for intervals of differences between runs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError

__all__ = ["PHOTO_COUNTS", "PhotoCounts", "read_photo_counts", "write_photo_counts"]

PHOTO_COUNTS = "photo_counts.npz"
"""The file's name in the folder of a run."""


class PhotoCounts(NamedTuple):
    """The counts of a run's photos.

    Attributes:
        names: of the photos.
        kinds: (photos, 3, C) of :func:`~vpl_plugin.localization.iou_counts` for each kind of label
            map, such as "refined".
    """

    names: tuple[str, ...]
    kinds: dict[str, Tensor]


def write_photo_counts(
    path: str | os.PathLike[str], names: Sequence[str], kinds: Mapping[str, Tensor]
) -> None:
    """Writes a .npz, whole or not at all.

    Args:
        path: of the file; its folder must exist.
        names: of the photos.
        kinds: (photos, 3, C) for each kind.

    Raises:
        OSError: the file cannot be written.
    """
    arrays: dict[str, Any] = {f"counts_{kind}": each.int().numpy() for kind, each in kinds.items()}
    with whole_file(path) as part:
        np.savez_compressed(part, names=np.array(list(names), dtype=np.str_), **arrays)


def read_photo_counts(path: str | os.PathLike[str]) -> PhotoCounts:
    """Reads what :func:`write_photo_counts` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is broken, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            names = tuple(str(name) for name in held["names"])
            kinds = {
                name.removeprefix("counts_"): torch.from_numpy(held[name]).long()
                for name in held.files
                if name.startswith("counts_")
            }
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise InputError(f"{path} does not hold the counts of photos: {error}") from error
    for kind, counts in kinds.items():
        if counts.ndim != 3 or counts.shape[:2] != (len(names), 3):
            raise InputError(
                f"{path} must hold counts of shape ({len(names)}, 3, C); {kind!r} has"
                f" {tuple(counts.shape)}"
            )
    return PhotoCounts(names, kinds)
