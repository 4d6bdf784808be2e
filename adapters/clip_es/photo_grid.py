"""The grid of patches that a photo is cut into."""

from __future__ import annotations

from pathlib import Path

from vpl_plugin.clip.preprocess import photo_size

__all__ = ["photo_grid"]


def photo_grid(path: Path, patch_size: int) -> tuple[int, int]:
    """Rows and columns of a photo's patches, from its header alone.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenPhotoError: it is no photo.
    """
    height, width = photo_size(path)
    return -(-height // patch_size), -(-width // patch_size)
