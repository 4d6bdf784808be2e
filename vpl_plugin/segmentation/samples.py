"""Draws to tensors: what the loader's processes make of an example, from photos or from a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vpl_plugin.clip import open_photo
from vpl_plugin.localization.mask_files import read_mask
from vpl_plugin.segmentation.augmentation import (
    Window,
    crop_mask,
    cut_out,
    draw_crop,
    random_window,
)
from vpl_plugin.segmentation.examples import Example
from vpl_plugin.segmentation.feature_cache import FeatureCache, View, read_tokens
from vpl_plugin.segmentation.sampler import Draw

__all__ = ["CachedSamples", "PhotoSamples", "Sample", "crop_labels", "inside_patches"]


class Sample(NamedTuple):
    """A crop, ready to be batched.

    Attributes:
        source: the photo, (crop, crop, 3) uint8, or its tokens, (levels, h * w, C) float16.
        mask: (crop, crop) uint8.
        labels: (F,) bool, the classes that count in RSC.
        inside: (h, w) bool, the patches that show the photo, and not padding.
    """

    source: Tensor
    mask: Tensor
    labels: Tensor
    inside: Tensor


def crop_labels(
    mask: np.ndarray, classes: Sequence[int], num_foreground: int, *, rsc_labels: str = "crop"
) -> np.ndarray:
    """The classes present in a crop: the photo's, as far as the crop's pseudo-mask shows them.

    A class that was cropped away must not be pulled to its prototype, and one that the photo is
    known to lack is none, whatever the pseudo-mask says.

    Args:
        mask: of the crop.
        classes: of the whole photo, from 0.
        num_foreground: F.
        rsc_labels: "crop"; or "photo" for all of the photo's classes.

    Returns:
        (F,) bool.

    Example:
        >>> crop_labels(np.array([[0, 1], [3, 255]], np.uint8), classes=[0, 1], num_foreground=3)
        array([ True, False, False])
    """
    known = np.zeros(num_foreground, bool)
    known[list(classes)] = True
    if rsc_labels == "photo":
        return known
    return known & (np.bincount(mask.ravel(), minlength=256)[1 : 1 + num_foreground] > 0)


def inside_patches(rows: Window, columns: Window, side: int, patch: int) -> Tensor:
    """The patches of a crop whose middle shows the photo, and not padding.

    Args:
        rows: of the crop, in steps.
        columns: the same across.
        side: of the crop, in steps.
        patch: steps that a patch has along each axis; divides ``side``.

    Returns:
        (side / patch, side / patch) bool.

    Example:
        >>> inside_patches(Window(0, 4, 3), Window(3, 8, 0), side=8, patch=4)
        tensor([[False, False],
                [ True,  True]])
    """
    middles = (torch.arange(side // patch) + 0.5) * patch
    down, across = (
        (middles > window.offset) & (middles < window.offset + window.length)
        for window in (rows, columns)
    )
    return down[:, None] & across


class PhotoSamples(Dataset[Sample]):
    """Crops of photos, for the encoder to run on; indexed by :class:`Draw`."""

    def __init__(
        self,
        examples: Sequence[Example],
        num_foreground: int,
        *,
        crop: int,
        patch_size: int,
        scales: tuple[float, float],
        seed: int,
        rsc_labels: str = "crop",
    ) -> None:
        self._examples, self._num_foreground = examples, num_foreground
        self._crop, self._patch_size = crop, patch_size
        self._scales, self._seed, self._rsc_labels = scales, seed, rsc_labels

    def __getitem__(self, draw: Draw) -> Sample:
        example = self._examples[draw.example]
        mask = read_mask(example.mask)
        crop = draw_crop(
            mask.shape, draw.generator(self._seed), crop=self._crop, scales=self._scales
        )
        photo, mask = cut_out(np.asarray(open_photo(example.photo)), mask, crop)
        labels = crop_labels(
            mask, example.classes, self._num_foreground, rsc_labels=self._rsc_labels
        )
        inside = inside_patches(crop.rows, crop.columns, self._crop, self._patch_size)
        return Sample(
            torch.from_numpy(photo),
            torch.from_numpy(mask),
            torch.from_numpy(labels),
            inside.flip(1) if crop.mirrored else inside,
        )


class CachedSamples(Dataset[Sample]):
    """Crops of cached tokens on the grid of patches; indexed by :class:`Draw`.

    Where a photo has fewer patches than the crop, tokens of zeros fill it up, under a mask of 255.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        num_foreground: int,
        cache: FeatureCache,
        *,
        crop: int,
        patch_size: int,
        seed: int,
        rsc_labels: str = "crop",
    ) -> None:
        # Not the cache itself, which holds the model: this goes to the loader's processes.
        self._files: list[list[Path]] = [
            [cache.file(example.name, view) for view in cache.views] for example in examples
        ]
        self._views: tuple[View, ...] = cache.views
        self._examples, self._num_foreground = examples, num_foreground
        self._patches, self._patch_size, self._seed = crop // patch_size, patch_size, seed
        self._rsc_labels = rsc_labels

    def __getitem__(self, draw: Draw) -> Sample:
        rng = draw.generator(self._seed)
        choice = int(rng.integers(len(self._views)))
        example, view = self._examples[draw.example], self._views[choice]
        stored = read_tokens(self._files[draw.example][choice])
        levels, height, width, channels = stored.shape
        side = self._patches
        rows, columns = random_window(height, side, rng), random_window(width, side, rng)
        tokens = np.zeros((levels, side, side, channels), np.float16)
        tokens[
            :,
            rows.offset : rows.offset + rows.length,
            columns.offset : columns.offset + columns.length,
        ] = stored[
            :,
            rows.start : rows.start + rows.length,
            columns.start : columns.start + columns.length,
        ]
        mask = read_mask(example.mask)
        pixels = side * self._patch_size
        labels = crop_mask(
            mask[:, ::-1] if view.mirrored else mask,
            self._in_pixels(rows),
            self._in_pixels(columns),
            (height * self._patch_size, width * self._patch_size),
            (pixels, pixels),
        )
        present = crop_labels(
            labels, example.classes, self._num_foreground, rsc_labels=self._rsc_labels
        )
        return Sample(
            torch.from_numpy(tokens).flatten(1, 2),
            torch.from_numpy(labels),
            torch.from_numpy(present),
            inside_patches(rows, columns, side, 1),
        )

    def _in_pixels(self, window: Window) -> Window:
        return Window(*(steps * self._patch_size for steps in window))
