"""Photos to pixels: opening, resizing to whole patches, CLIP's normalisation."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vpl_plugin.errors import InputError

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "BrokenPhotoError",
    "PixelArray",
    "normalise",
    "open_photo",
    "photo_size",
    "preprocess",
]

PixelArray: TypeAlias = npt.NDArray[np.uint8]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# EXIF's tag for the orientation, and what brings a photo of each upright; 1 is upright already.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# From here on height and width swap.
_SIDEWAYS = 5
# Where the header's size is that of the decoded photo. An icon, say, holds several, and a TIFF is
# turned by Pillow while it is decoded.
_HEADER_TELLS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "PPM", "JPEG2000"})


class BrokenPhotoError(InputError):
    """A file that is no photo, or only part of one."""


def open_photo(path: str | os.PathLike[str]) -> Image.Image:
    """Open a photo whole, in RGB and the right way up.

    The orientation that cameras note in EXIF is applied, as viewers and annotation tools do; one
    that is no number from 1 to 8 is ignored, and so is metadata that cannot be read. Photos of
    PASCAL VOC and COCO carry none, so their masks fit either way. Transparency is dropped, and of
    an animation the first picture is taken.

    Args:
        path: the file, in any format that Pillow reads.

    Returns:
        The decoded photo; the file is closed.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenPhotoError: the file is truncated, no photo, or one with more than 8 bits a
            channel; the message names it.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no photo at {path}")
    # Pillow's decoders raise whatever a damaged header leads them to.
    try:
        with Image.open(path) as photo:
            photo.load()
            turn = _TURNS.get(_orientation(photo))
            return _to_rgb(photo if turn is None else photo.transpose(turn))
    except Exception as error:
        raise _broken(path, error) from error


def photo_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a photo as :func:`open_photo` gives it.

    From the header alone, in the formats that photos usually have.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenPhotoError: it is no photo; the message names it.
    """
    try:
        with Image.open(path) as photo:
            if photo.format not in _HEADER_TELLS:
                photo.load()
            sideways = _orientation(photo) >= _SIDEWAYS
            width, height = photo.size
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _broken(path, error) from error
    return (width, height) if sideways else (height, width)


def _orientation(photo: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where none is noted, or nothing that can be read as one."""
    try:
        noted = photo.getexif().get(_ORIENTATION)
    # Metadata is not worth a photo: what cannot be read is as if it were not there.
    except Exception:
        return 1
    return noted if isinstance(noted, int) and noted in _TURNS else 1


def _broken(path: str | os.PathLike[str], error: Exception) -> BrokenPhotoError:
    # Not every error of a decoder has a message.
    return BrokenPhotoError(f"cannot read the photo {path}: {str(error) or type(error).__name__}")


def preprocess(
    photo: Image.Image | PixelArray,
    patch_size: int = 16,
    *,
    device: torch.device | str | None = None,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Tensor:
    """A photo as the pixels CLIP-ES feeds to CLIP.

    Each side is resized to the next multiple of the patch size (bicubic, by Pillow), values are
    brought to [0, 1] and normalised.

    Args:
        photo: a PIL image, or an array (H, W, 3) of uint8.
        patch_size: side of the model's patches in pixels.
        device: where the pixels go, the CPU by default.
        mean: of each channel, CLIP's by default.
        std: of each channel, CLIP's by default.

    Returns:
        (3, H', W') float32, H' and W' multiples of ``patch_size``.

    Raises:
        TypeError: ``photo`` is neither a PIL image nor an array of uint8.
        InputError: the array is not of shape (H, W, 3), the image has more than 8 bits a
            channel, or the patch size is not positive.

    Example:
        >>> import numpy as np
        >>> preprocess(np.zeros((30, 50, 3), np.uint8)).shape
        torch.Size([3, 32, 64])
    """
    if patch_size < 1:
        raise InputError(f"patch_size must be positive, got {patch_size}")
    image = _as_rgb(photo)
    width, height = (-(-side // patch_size) * patch_size for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return normalise(torch.from_numpy(np.array(resized)).to(device), mean, std)


def normalise(
    photos: Tensor,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Tensor:
    """Colours as the pixels that a model was trained on.

    Args:
        photos: (..., H, W, 3) uint8.
        mean: of each channel, CLIP's by default.
        std: of each channel, CLIP's by default.

    Returns:
        (..., 3, H, W) float32 on the same device.

    Example:
        >>> normalise(torch.full((1, 1, 3), 255, dtype=torch.uint8)).flatten()
        tensor([1.9303, 2.0749, 2.1459])
    """
    pixels = photos.movedim(-1, -3).float() / 255
    channels = _channels(mean, std, pixels.device)
    return (pixels - channels[0]) / channels[1]


@lru_cache(maxsize=16)
def _channels(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Both (2, 3, 1, 1), copied once: the host waits for a GPU to take each copy."""
    # Not an inference tensor, whoever asks first: others may want gradients.
    with torch.inference_mode(mode=False):
        return torch.tensor([mean, std], device=device).view(2, 3, 1, 1)


def _to_rgb(photo: Image.Image) -> Image.Image:
    # Pillow would clip the values of these to 255 without a word.
    if photo.mode == "F" or photo.mode.startswith("I"):
        raise InputError(
            f"photo has the mode {photo.mode!r} with more than 8 bits a channel; make it 8"
        )
    return photo.convert("RGB")


def _as_rgb(photo: Image.Image | PixelArray) -> Image.Image:
    if isinstance(photo, Image.Image):
        return _to_rgb(photo)
    if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8:
        got = f"an array of {photo.dtype}" if isinstance(photo, np.ndarray) else repr(type(photo))
        raise TypeError(f"photo must be a PIL image or an array (H, W, 3) of uint8, got {got}")
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise InputError(f"photo must be an array of shape (H, W, 3), got {photo.shape}")
    return Image.fromarray(photo)
