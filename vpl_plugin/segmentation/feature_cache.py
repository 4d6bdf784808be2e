"""Tokens of the frozen blocks on disk, so that the encoder runs once a photo and not once a draw.

What it costs: photos are seen at the cached scales only, where training from photos draws any scale
of a range; crops lie on the grid of patches; and a token has seen the whole photo, not the crop.
Mirrored photos are encoded too, so the flip is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.checks import check_blocks
from vpl_plugin.clip import ClipModel, open_photo
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.errors import InputError
from vpl_plugin.results import Results
from vpl_plugin.segmentation.examples import Example

__all__ = ["FeatureCache", "View"]


class View(NamedTuple):
    """One of the forms in which a photo is encoded.

    Attributes:
        scale: of the photo's sides, before they are rounded up to whole patches.
        mirrored: left and right exchanged.
    """

    scale: float
    mirrored: bool


class FeatureCache:
    """A folder of float16 tokens, one file per photo and view; safe to kill and to fill again.

    Args:
        folder: made where it does not exist.
        model: the frozen encoder.
        blocks: whose tokens are kept.
        scales: each photo is kept at each of them, plain and mirrored.
        alone: no other process writes there now, see :meth:`Results.claim`.

    Attributes:
        views: in which each photo is kept.

    Raises:
        InputError: the folder holds tokens of another encoder, other blocks or scales; no scale,
            or one that is not positive.
    """

    def __init__(
        self,
        folder: Path,
        model: ClipModel,
        blocks: Sequence[int],
        scales: Sequence[float] = (1.0,),
        *,
        alone: bool = True,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise InputError(f"scales must be one or more numbers above 0; got {tuple(scales)}")
        self.folder = Path(folder)
        self._model = model
        self._blocks = check_blocks(blocks, model.depth)
        self.views = tuple(View(float(s), m) for s in sorted(set(scales)) for m in (False, True))
        settings = {
            "kind": "tokens of frozen blocks",
            "encoder": model.fingerprint(),
            "blocks": self._blocks,
            "scales": [view.scale for view in self.views[::2]],
        }
        Results.claim(self.folder, settings, alone=alone)

    def fill(
        self, examples: Sequence[Example], *, rank: int = 0, world: int = 1, progress: bool = True
    ) -> None:
        """Encode what is not there yet; of the photos, every ``world``-th from ``rank`` on.

        Raises:
            FileNotFoundError, BrokenPhotoError: a photo cannot be read.
            InputError: a token does not fit float16.
            MemoryError: a photo does not fit in memory; the message names it.
        """
        todo = [
            example
            for example in examples[rank::world]
            if not all(self.file(example.name, view).is_file() for view in self.views)
        ]
        for example in tqdm(todo, desc="tokens", unit="photo", disable=not progress):
            photo = open_photo(example.photo)
            for plain, mirrored in zip(self.views[::2], self.views[1::2], strict=True):
                self._encode(example.name, photo, plain, mirrored)

    def file(self, name: str, view: View) -> Path:
        """Where the tokens of a photo in a view lie."""
        return self.folder / f"{name}_{view.scale:g}_{'mirrored' if view.mirrored else 'plain'}.npy"

    def tokens(self, name: str, view: View) -> np.ndarray:
        """The tokens (levels, h, w, C) float16 of a photo in a view, mapped from the file.

        Only what is sliced from them is read.

        Raises:
            InputError: the file is broken; the message names it.
        """
        return read_tokens(self.file(name, view))

    def _encode(self, name: str, photo: Image.Image, plain: View, mirrored: View) -> None:
        width, height = (max(1, round(side * plain.scale)) for side in photo.size)
        size = (width, height)
        scaled = photo if size == photo.size else photo.resize(size, Image.Resampling.BICUBIC)
        pixels = torch.stack(
            [self._model.preprocess(scaled), self._model.preprocess(ImageOps.mirror(scaled))]
        )
        grid = [side // self._model.patch_size for side in pixels.shape[2:]]
        for view, one in zip((plain, mirrored), self._tokens(name, pixels), strict=True):
            one = one.reshape(len(one), *grid, -1)
            if not np.isfinite(one).all():
                raise InputError(
                    f"the tokens of {name} do not fit float16: train from photos, without a cache"
                )
            file = self.file(name, view)
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as part:
                np.save(part, one)

    def _tokens(self, name: str, pixels: Tensor) -> np.ndarray:
        """(2, levels, h * w, C) float16, one by one where memory does not hold both at once."""

        def encode(part: Tensor) -> np.ndarray:
            return self._model.block_tokens(part, self._blocks).half().cpu().numpy()

        for parts in ([pixels], pixels.split(1)):
            try:
                return np.concatenate([encode(part) for part in parts])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
        height, width = pixels.shape[2:]
        raise MemoryError(
            f"{self._model.device} has no memory for {name} at {height} x {width} pixels: make the"
            " photo smaller, or train from photos, without a cache"
        )


def read_tokens(file: Path) -> np.ndarray:
    """A file of the cache, mapped.

    Raises:
        InputError: it is not there or broken; the message names it.
    """
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is broken; delete it and run again: {error}") from error
