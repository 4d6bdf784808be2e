"""From a photo to class probabilities: several scales, mirrored copies, windows over large photos.

The encoder and the decoder see at most a window at a time, and what they give is kept on the
decoder's grid, a small part of the photo's size. Only :func:`probabilities` fills a tensor of the
photo's size, and :func:`most_likely` not even that: it goes over the photo in bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpl_plugin.checks import check_count, check_positive
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.clip.preprocess import PixelArray
from vpl_plugin.errors import InputError
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.resizing import bilinear_matrix

__all__ = ["Views", "check_settings", "most_likely", "photo_views", "probabilities", "segment"]

# Pixels of a band times labels: 64 MB in float32.
_BAND = 2**24


class Views(NamedTuple):
    """A photo as the decoder sees it, scale by scale, plain and mirrored.

    Attributes:
        maps: of each view (1 + F, h', w') float32 maps before softmax, channel 0 the background,
            mirrored ones turned back. Their sizes differ, all cover the whole photo.
        size: (height, width) of the photo.
    """

    maps: list[Tensor]
    size: tuple[int, int]


def segment(
    segmenter: Segmenter,
    photo: Image.Image | PixelArray,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    overlap: float = 0.5,
    batch_size: int = 4,
    classes: Sequence[int] | None = None,
) -> Tensor:
    """How likely each pixel of a photo is background or of each class.

    Args:
        segmenter: a trained decoder on its encoder.
        photo: a PIL image, or an array (H, W, 3) of uint8.
        scales: of the photo's sides; the softmax probabilities of all are averaged.
        flip: average over the mirrored photo too.
        window: side in pixels, rounded up to whole patches, of the squares that a photo larger
            than that is cut into; None takes it whole.
        overlap: least share of a window that its neighbour covers too, in [0, 1).
        batch_size: windows (or photo and mirror image) at once; where memory does not hold so
            many, they go one by one.
        classes: foreground classes (from 0) known to be the only ones in the photo; the others
            get probability 0. None knows nothing.

    Returns:
        (1 + F, H, W) float32 on the model's device, summing to 1 over the channels; channel 0 is
        the background.

    Raises:
        TypeError, InputError: the photo is none, or a setting is out of range.

    Example:
        >>> from vpl_plugin import Prototypes, load_clip
        >>> from vpl_plugin.segmentation.decoder import Decoder
        >>> model = load_clip("mini", device="cpu")
        >>> pets = Prototypes(torch.eye(3, model.embed_dim), ("cat", "dog"))
        >>> decoder = Decoder.for_model(model, pets, (0, 1)).eval()
        >>> segmenter = Segmenter(model, decoder, (0, 1), pets.class_names)
        >>> segment(segmenter, np.zeros((40, 30, 3), np.uint8), flip=True).shape
        torch.Size([3, 40, 30])
    """
    views = photo_views(
        segmenter,
        photo,
        scales=scales,
        flip=flip,
        window=window,
        overlap=overlap,
        batch_size=batch_size,
    )
    return probabilities(views, classes)


@torch.no_grad()
def photo_views(
    segmenter: Segmenter,
    photo: Image.Image | PixelArray,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    overlap: float = 0.5,
    batch_size: int = 4,
) -> Views:
    """Run encoder and decoder; the first half of :func:`segment`, whose arguments it takes.

    Windows lie on the grid of patches. Where they overlap, their maps are averaged with weights
    that fall linearly towards the window's edge, where a token knows least of what is around it.
    """
    check_settings(scales, window, overlap)
    check_count("batch_size", batch_size)
    image = photo if isinstance(photo, Image.Image) else Image.fromarray(_checked(photo))
    patch = segmenter.model.patch_size
    side = None if window is None else -(-window // patch)
    maps = []
    for scale in scales:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        scaled = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
        pixels = segmenter.model.preprocess(scaled)
        copies = [pixels, pixels.flip(-1)] if flip else [pixels]
        plain, *mirrored = _maps(segmenter, torch.stack(copies), side, overlap, batch_size)
        maps += [plain, *(one.flip(-1) for one in mirrored)]
    return Views(maps, (image.height, image.width))


def probabilities(views: Views, classes: Sequence[int] | None = None) -> Tensor:
    """The mean of the views' softmax probabilities at the photo's size.

    Args:
        views: of the photo.
        classes: the only foreground classes (from 0) that may be there; None allows all.

    Returns:
        (1 + F, H, W) float32, summing to 1 over the channels.

    Raises:
        InputError: a class that does not exist.

    Example:
        >>> views = Views([torch.tensor([0.0, 2.0, 9.0]).reshape(3, 1, 1)], size=(1, 1))
        >>> probabilities(views, classes=[0]).flatten()
        tensor([0.1192, 0.8808, 0.0000])
    """
    first = views.maps[0]
    result = first.new_empty(len(first), *views.size)
    start = 0
    for band in _bands(views, classes):
        result[:, start : start + band.shape[1]] = band
        start += band.shape[1]
    return result


def most_likely(views: Views, classes: Sequence[int] | None = None) -> np.ndarray:
    """The label of each pixel, without the probabilities of all pixels in memory at once.

    Args:
        views: of the photo.
        classes: as for :func:`probabilities`.

    Returns:
        (H, W) uint8: 0 is the background, 1 + n foreground class n.

    Raises:
        InputError: a class that does not exist, or more than 255 labels.
    """
    if len(views.maps[0]) > 255:
        raise InputError(f"views must have at most 255 labels; got {len(views.maps[0])}")
    bands = [band.argmax(dim=0).to(torch.uint8).cpu() for band in _bands(views, classes)]
    return torch.cat(bands).numpy()


def _bands(views: Views, classes: Sequence[int] | None) -> Iterator[Tensor]:
    """The probabilities (1 + F, rows, W), some rows at a time, from the top."""
    first = views.maps[0]
    absent = _absent(len(first), classes)
    height, width = views.size
    resized = [
        (
            maps,
            bilinear_matrix(maps.shape[1], height, maps),
            bilinear_matrix(maps.shape[2], width, maps),
        )
        for maps in views.maps
    ]
    rows = max(1, _BAND // (len(first) * width))
    for start in range(0, height, rows):
        band = first.new_zeros(len(first), min(rows, height - start), width)
        for maps, down, across in resized:
            logits = down[start : start + rows] @ maps @ across.T
            if absent:
                logits[absent] = -torch.inf
            band += logits.softmax(dim=0)
        yield band / len(resized)


def _maps(
    segmenter: Segmenter, copies: Tensor, side: int | None, overlap: float, batch_size: int
) -> Tensor:
    """Maps (B, 1 + F, h', w') of pixels (B, 3, H, W), by windows of ``side`` patches."""
    patch = segmenter.model.patch_size
    grid = (copies.shape[2] // patch, copies.shape[3] // patch)
    height, width = (length if side is None else min(side, length) for length in grid)
    corners = [
        (index, top, left)
        for index in range(len(copies))
        for top in _starts(grid[0], height, overlap)
        for left in _starts(grid[1], width, overlap)
    ]
    # The decoder's grid is `fine` times as fine as the patches'.
    fine = int(segmenter.decoder.settings["upsampling"])
    shape = (len(copies), 1 + len(segmenter.classes), grid[0] * fine, grid[1] * fine)
    sums = torch.zeros(shape, device=copies.device)
    weights = torch.zeros(len(copies), 1, *shape[2:], device=copies.device)
    weight = _tent(height * fine, sums)[:, None] * _tent(width * fine, sums)
    for first in range(0, len(corners), batch_size):
        chosen = corners[first : first + batch_size]
        windows = [
            copies[i, :, y * patch : (y + height) * patch, x * patch : (x + width) * patch]
            for i, y, x in chosen
        ]
        for (i, y, x), one in zip(chosen, _logits(segmenter, windows), strict=True):
            rows = slice(y * fine, (y + height) * fine)
            columns = slice(x * fine, (x + width) * fine)
            sums[i, :, rows, columns] += weight * one
            weights[i, :, rows, columns] += weight
    return sums / weights


def _logits(segmenter: Segmenter, windows: Sequence[Tensor]) -> Tensor:
    """The maps of windows (3, H, W), one by one where memory does not hold them at once."""
    try:
        return segmenter.logits(torch.stack([*windows]))
    except (MemoryError, RuntimeError) as error:
        if len(windows) == 1 or not is_out_of_memory(error):
            raise
    # Not in the clause above, as the error holds on to what filled the memory.
    return torch.cat([segmenter.logits(window[None]) for window in windows])


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin, evenly spaced from the first step to flush with the last."""
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return [round(i * (length - window) / max(1, count - 1)) for i in range(count)]


def _tent(length: int, like: Tensor) -> Tensor:
    """Weights (length,) that fall linearly from the middle and stay above 0."""
    up = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(up, up.flip(0)) / length


def _absent(channels: int, classes: Sequence[int] | None) -> list[int]:
    if classes is None:
        return []
    wrong = [index for index in classes if not 0 <= index < channels - 1]
    if wrong:
        raise InputError(f"classes must lie in [0, {channels - 2}]; got {wrong[0]}")
    return [label for label in range(1, channels) if label - 1 not in classes]


def check_settings(scales: Sequence[float], window: int | None, overlap: float) -> None:
    """Refuse settings of :func:`segment` that are out of range.

    Raises:
        TypeError, InputError: what is wrong, and what is expected.
    """
    if not scales:
        raise InputError("scales must hold at least one number; got none")
    for scale in scales:
        check_positive("scales", scale)
    if window is not None:
        check_count("window", window)
    if not 0 <= overlap < 1:
        raise InputError(f"overlap must lie in [0, 1); got {overlap!r}")


def _checked(photo: object) -> np.ndarray:
    if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8:
        kind = getattr(photo, "dtype", type(photo).__name__)
        raise TypeError(f"photo must be a PIL image or an array (H, W, 3) of uint8; got {kind}")
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise InputError(f"photo must be an array of shape (H, W, 3); got {photo.shape}")
    return photo
