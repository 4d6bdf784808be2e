"""What upstream CLIP-ES computes for a photo: features where its forward has them, and its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams
from vpl_plugin.adapters.retrofit.recipe import SeenPhoto

__all__ = ["TokenCatcher", "cams_on_grid", "seen_photo"]

# Upstream's scripts are written for this patch size.
PATCH_SIZE = 16


class TokenCatcher:
    """Catches what a model's ``ln_post`` gives while a ``with`` block runs.

    Args:
        model: of upstream's class.
    """

    def __init__(self, model: Any) -> None:
        self._visual = model.visual
        self._tokens: Tensor | None = None

    def __enter__(self) -> None:
        projection = self._visual.proj.detach()

        def catch(module: Any, inputs: Any, output: Tensor) -> None:
            self._tokens = output.detach()[0, 1:] @ projection.to(output.device)

        self._handle = self._visual.ln_post.register_forward_hook(catch)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def tokens(self, photo: str) -> Tensor:
        """(P, D) of the photo that upstream is through with, once."""
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            raise RuntimeError(f"upstream's code did not run the encoder's ln_post on {photo}")
        return tokens


def seen_photo(tokens: Tensor, path: Path) -> SeenPhoto:
    """What prototypes are learned from.

    Args:
        tokens: (P, D) of the photo.
        path: the file that upstream has written for it.
    """
    keys, cams = read_upstream_cams(path)
    height, width = cams.shape[1:]
    grid = (math.ceil(height / PATCH_SIZE), math.ceil(width / PATCH_SIZE))
    return SeenPhoto(tokens, cams_on_grid(torch.from_numpy(cams), grid), keys.tolist())


def cams_on_grid(cams: Tensor, grid: tuple[int, int]) -> Tensor:
    """The maps on the patch grid that upstream resized to the photo.

    Its resize is linear and there are fewer patches than photo pixels, so least squares gives the
    maps back, to the rounding of float16.

    Args:
        cams: (K, H, W), resized bilinearly from the grid.
        grid: (h, w), at most (H, W).

    Returns:
        (K, h, w) float32, values in [0, 1].

    Example:
        >>> from vpl_plugin.localization import resize_cams
        >>> maps = torch.tensor([[[0.0, 1.0], [0.5, 0.2]]])
        >>> cams_on_grid(resize_cams(maps, (30, 25)), (2, 2)).round(decimals=3)
        tensor([[[0.0000, 1.0000],
                 [0.5000, 0.2000]]])
    """
    rows, columns = (
        torch.linalg.pinv(F.interpolate(torch.eye(cells)[None], size=side, mode="linear")[0].T)
        for cells, side in zip(grid, cams.shape[1:], strict=True)
    )
    return (rows @ cams.float() @ columns.T).clamp(0, 1)
