"""The files that the stages of the CLIP-ES pipeline hand on: one .npz a photo."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file

__all__ = [
    "StoredCAMs",
    "StoredSeeds",
    "read_cams",
    "read_seeds",
    "write_cams",
    "write_seeds",
]


class StoredSeeds(NamedTuple):
    """Pixels of a photo, with their seeds.

    Attributes:
        features: (p, D) float16, unit rows to rounding.
        seeds: (p,) int16, the class index of each pixel's seed, or
            :data:`~vpl_plugin.localization.seeds.NO_SEED`.
        pixels: (p,) int32, which patches these are, in row-major order of the grid.
        grid: (h, w).
    """

    features: np.ndarray
    seeds: np.ndarray
    pixels: np.ndarray
    grid: tuple[int, int]


class StoredCAMs(NamedTuple):
    """The CAMs of a photo.

    Attributes:
        classes: (K,) class indices.
        raw: (K, h, w) float32 in [0, 1], on the grid of patches.
        refined: the same after the attention affinity.
        size: (height, width) of the photo in pixels.
    """

    classes: tuple[int, ...]
    raw: Tensor
    refined: Tensor
    size: tuple[int, int]


def write_seeds(path: Path, stored: StoredSeeds) -> None:
    """Writes the seeds of a photo, whole or not at all."""
    with whole_file(path) as part:
        # float16 features hardly compress, so time is not spent on it.
        np.savez(part, **{**stored._asdict(), "grid": np.array(stored.grid, np.int32)})


def read_seeds(path: Path) -> StoredSeeds:
    """Reads what :func:`write_seeds` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken; the message names it.
    """
    arrays = _arrays(path, StoredSeeds._fields)
    height, width = arrays["grid"].tolist()
    return StoredSeeds(arrays["features"], arrays["seeds"], arrays["pixels"], (height, width))


def write_cams(path: Path, stored: StoredCAMs) -> None:
    """Writes the CAMs of a photo, whole or not at all."""
    with whole_file(path) as part:
        # Compressing takes the encoding loop longer than writing, and saves but a few KB.
        np.savez(
            part,
            classes=np.array(stored.classes),
            raw=stored.raw.float().cpu().numpy(),
            refined=stored.refined.float().cpu().numpy(),
            size=np.array(stored.size),
        )


def read_cams(path: Path) -> StoredCAMs:
    """Reads what :func:`write_cams` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken; the message names it.
    """
    arrays = _arrays(path, StoredCAMs._fields)
    height, width = arrays["size"].tolist()
    raw, refined = (torch.from_numpy(arrays[name]) for name in ("raw", "refined"))
    return StoredCAMs(tuple(arrays["classes"].tolist()), raw, refined, (height, width))


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is broken; delete it and run its stage again: {error}") from error
