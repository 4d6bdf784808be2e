"""Seed pixels from what upstream CLIP-ES computes for a photo, a file per photo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.adapters.clip_es.drawn_pixels import draw_pixels
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, write_seeds
from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams
from vpl_plugin.localization.seeds import seed_classes

__all__ = ["SeedCollector", "cams_on_grid"]

# Upstream's scripts are written for this patch size.
PATCH_SIZE = 16


class SeedCollector:
    """Turns each photo's CAM file into pixels with their seeds, and removes the file.

    Features are caught where upstream's forward has them: behind ``ln_post``.

    Args:
        threshold: Phi of the seeds.
        pixels_per_photo: how many to draw from each photo; None takes them all.
        seed: of the draw.
    """

    def __init__(self, *, threshold: float, pixels_per_photo: int | None, seed: int) -> None:
        self._threshold = threshold
        self._pixels_per_photo = pixels_per_photo
        self._seed = seed
        self._tokens: Tensor | None = None

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Catches what the model's ``ln_post`` gives while the block runs."""
        projection = model.visual.proj.detach()

        def catch(module: Any, inputs: Any, output: Tensor) -> None:
            self._tokens = output.detach()[0, 1:] @ projection.to(output.device)

        handle = model.visual.ln_post.register_forward_hook(catch)
        try:
            yield
        finally:
            handle.remove()

    def take(self, name: str, path: Path, seeds: Path) -> None:
        """Draws the pixels of one photo whose CAMs upstream has just written to ``path``.

        Args:
            name: of the photo.
            path: the CAMs, which are removed.
            seeds: the file to write.
        """
        if self._tokens is None:
            raise RuntimeError(f"upstream's code did not run the encoder's ln_post on {name}")
        features = F.normalize(self._tokens.float(), dim=1)
        self._tokens = None
        keys, cams = read_upstream_cams(path)
        path.unlink()
        height, width = cams.shape[1:]
        grid = (math.ceil(height / PATCH_SIZE), math.ceil(width / PATCH_SIZE))
        maps = cams_on_grid(torch.from_numpy(cams), grid)
        claimed = seed_classes(maps, keys.tolist(), self._threshold)
        # As the native stages name the photo, so that both draw the same pixels.
        name = Path(name).with_suffix("").as_posix()
        drawn = draw_pixels(len(claimed), name, self._pixels_per_photo, self._seed)
        write_seeds(
            seeds,
            StoredSeeds(
                features=features.half().cpu().numpy()[drawn],
                seeds=claimed.numpy().astype(np.int16)[drawn],
                pixels=drawn.astype(np.int32),
                grid=grid,
            ),
        )


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
