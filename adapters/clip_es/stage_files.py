"""The files that the stages of the CLIP-ES pipeline hand on: one .npz a photo."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.core.targets import text_distribution

__all__ = [
    "NO_SEED",
    "StoredCAMs",
    "StoredSeeds",
    "read_cams",
    "read_seeds",
    "seed_classes",
    "stored_targets",
    "write_cams",
    "write_seeds",
]

NO_SEED = -1
"""Stands for a pixel that no CAM claims; its target is the background's text distribution."""


class StoredSeeds(NamedTuple):
    """Pixels of a photo, with their seeds.

    Attributes:
        features: (p, D) float16, unit rows to rounding.
        seeds: (p,) int16, the class index of each pixel's seed, or :data:`NO_SEED`.
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


def seed_classes(cams: Tensor, classes: tuple[int, ...], threshold: float) -> Tensor:
    """The class whose CAM claims each pixel: the compact form of the targets m_i of Theorem 3.

    Args:
        cams: (K, h, w), refined, in [0, 1].
        classes: class indices of the maps.
        threshold: Phi; the best map must exceed it.

    Returns:
        (h * w,) int64 on the CPU: a class index, or :data:`NO_SEED`.

    Example:
        >>> seed_classes(torch.tensor([[[0.9, 0.1]]]), (7,), threshold=0.4)
        tensor([ 7, -1])
    """
    score, best = cams.flatten(1).cpu().max(dim=0)
    return torch.tensor(classes)[best].masked_fill(score <= threshold, NO_SEED)


def stored_targets(
    features: Tensor,
    seeds: Tensor,
    text_prototypes: Tensor,
    *,
    num_foreground: int,
    tau_T: float = 0.01,
) -> Tensor:
    """The targets that seeds stand for: one-hot at a seed, elsewhere Eq. 5 over the background.

    Args:
        features: (p, D), unit rows.
        seeds: (p,) int64, as :func:`seed_classes` gives them.
        text_prototypes: (N, D), unit rows: the foreground rows, then the background's.
        num_foreground: number of foreground rows.
        tau_T: CLIP's temperature.

    Returns:
        (p, N), rows that sum to 1.

    Example:
        >>> Z = torch.eye(3)
        >>> stored_targets(Z[:2], torch.tensor([0, -1]), Z, num_foreground=1, tau_T=1.0)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.7311, 0.2689]])
    """
    background = text_distribution(features, text_prototypes[num_foreground:], tau_T)
    targets = torch.nn.functional.pad(background, (num_foreground, 0))
    one_hot = torch.nn.functional.one_hot(seeds.clamp(min=0), len(text_prototypes))
    return torch.where((seeds != NO_SEED)[:, None], one_hot.to(targets.dtype), targets)


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
        np.savez_compressed(
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
