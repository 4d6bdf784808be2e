"""The files that the stages of the CLIP-ES pipeline hand on: one .npz per photo."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.results import MADE_FROM

__all__ = [
    "StoredCAMs",
    "StoredSeeds",
    "read_arrays",
    "read_cams",
    "read_probabilities",
    "read_seeds",
    "write_arrays",
    "write_cams",
    "write_probabilities",
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


def write_seeds(path: Path, stored: StoredSeeds, made_from: str = "") -> None:
    """Writes the seeds of a photo, whole or not at all, with the digest of their inputs."""
    arrays = {**stored._asdict(), "grid": np.array(stored.grid, np.int32)}
    write_arrays(path, arrays, made_from)


def read_seeds(path: Path) -> StoredSeeds:
    """Reads what :func:`write_seeds` wrote; raises as :func:`read_arrays`."""
    arrays = read_arrays(path, StoredSeeds._fields)
    height, width = arrays["grid"].tolist()
    return StoredSeeds(arrays["features"], arrays["seeds"], arrays["pixels"], (height, width))


def write_cams(
    path: Path, stored: StoredCAMs, made_from: str = "", labels: Sequence[str] = ()
) -> None:
    """Writes the CAMs of a photo, whole or not at all.

    Args:
        path: of the file.
        stored: the CAMs.
        made_from: the digest of their inputs.
        labels: names of their classes, for whoever opens the file.
    """
    arrays = {
        "classes": np.array(stored.classes),
        "raw": stored.raw.float().cpu().numpy(),
        "refined": stored.refined.float().cpu().numpy(),
        "size": np.array(stored.size),
        "labels": np.array(labels, dtype=np.str_),
    }
    write_arrays(path, arrays, made_from)


def read_cams(path: Path) -> StoredCAMs:
    """Reads what :func:`write_cams` wrote; raises as :func:`read_arrays`."""
    arrays = read_arrays(path, StoredCAMs._fields)
    height, width = arrays["size"].tolist()
    raw, refined = (torch.from_numpy(arrays[name]) for name in ("raw", "refined"))
    return StoredCAMs(tuple(arrays["classes"].tolist()), raw, refined, (height, width))


def write_probabilities(path: Path, probabilities: Tensor, made_from: str = "") -> None:
    """Writes (K + 2, h, w) of :func:`pixel_probabilities`, whole or not at all, in float16."""
    write_arrays(path, {"probabilities": probabilities.half().cpu().numpy()}, made_from)


def read_probabilities(path: Path) -> Tensor:
    """Reads what :func:`write_probabilities` wrote; raises as :func:`read_arrays`."""
    return torch.from_numpy(read_arrays(path, ("probabilities",))["probabilities"]).float()


def write_arrays(path: Path, arrays: dict[str, Any], made_from: str) -> None:
    """Writes an .npz, whole or not at all, with the digest of its inputs."""
    with whole_file(path) as part:
        # Compressing takes the encoding loop longer than writing, and saves but a few KB.
        np.savez(part, **{**arrays, MADE_FROM: np.array(made_from)})


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of a stage's .npz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is broken; delete it and run its stage again: {error}") from error
