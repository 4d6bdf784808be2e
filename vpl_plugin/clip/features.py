"""Features of many photos of any size, a bounded number of them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.preprocess import PixelArray, open_photo
from vpl_plugin.errors import InputError

__all__ = ["Photo", "dense_features", "pixel_batches"]

Photo: TypeAlias = Image.Image | PixelArray | str | os.PathLike[str]


def pixel_batches(
    model: ClipModel, photos: Iterable[Photo], batch_size: int = 8
) -> Iterator[Tensor]:
    """Preprocess photos and batch consecutive ones of equal size, keeping their order.

    Args:
        model: whose preprocessing and device are used.
        photos: PIL images, arrays (H, W, 3) of uint8, or paths.
        batch_size: the most photos in a batch, and in memory.

    Returns:
        Batches (B, 3, H, W) with B of 1 to ``batch_size``; one after the other they hold the
        photos in the order given.

    Raises:
        InputError: ``batch_size`` is not positive.
        FileNotFoundError, BrokenPhotoError: on reaching a path that is no photo.

    Example:
        >>> import numpy as np
        >>> from vpl_plugin.clip import load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> photos = [np.zeros((32, side, 3), np.uint8) for side in (32, 32, 48)]
        >>> [tuple(batch.shape) for batch in pixel_batches(model, photos)]
        [(2, 3, 32, 32), (1, 3, 32, 48)]
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be positive, got {batch_size}")
    return _pixel_batches(model, photos, batch_size)


def _pixel_batches(model: ClipModel, photos: Iterable[Photo], batch_size: int) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for photo in photos:
        opened = open_photo(photo) if isinstance(photo, (str, os.PathLike)) else photo
        pixels = model.preprocess(opened)
        if batch and (len(batch) == batch_size or pixels.shape != batch[0].shape):
            yield torch.stack(batch)
            batch = []
        batch.append(pixels)
    if batch:
        yield torch.stack(batch)


def dense_features(
    model: ClipModel, photos: Iterable[Photo], batch_size: int = 8, *, kind: str = "clip"
) -> Iterator[Tensor]:
    """The dense features of each photo, one photo after the other.

    Args:
        model: encodes the photos.
        photos: see :func:`pixel_batches`.
        batch_size: see :func:`pixel_batches`.
        kind: of :meth:`ClipModel.dense_features`.

    Returns:
        For each photo in turn (P, D), unit rows on the model's device: its P = h * w patches in
        row-major order, where h and w are the photo's sides over the patch size, rounded up.

    It raises what :func:`pixel_batches` does, and InputError on reaching the first photo where
    there is no such kind.

    Example:
        >>> import numpy as np
        >>> from vpl_plugin.clip import load_clip
        >>> photos = [np.zeros((32, side, 3), np.uint8) for side in (32, 48)]
        >>> model = load_clip("mini", device="cpu")
        >>> [tuple(features.shape) for features in dense_features(model, photos)]
        [(4, 256), (6, 256)]
    """
    return (
        features
        for pixels in pixel_batches(model, photos, batch_size)
        for features in model.dense_features(pixels, kind=kind)
    )
