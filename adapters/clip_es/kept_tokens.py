"""A photo's tokens in the form in which they are kept from one stage to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.clip.model import VisionTokens

__all__ = ["KeptTokens", "kept_bytes", "kept_tokens", "vision_tokens"]

LEVELS = 65535


class KeptTokens(NamedTuple):
    """What a photo would have to be encoded again for.

    The tokens are exact: GradCAM's maps are cut into boxes, which a change in the last bits of
    half precision moves. The attention is smooth in all that follows; of its square roots 16 bits
    moved refined CAMs by 4e-5 at most, where float16 moved them by up to 6e-4
    (docs/evidence.md).

    Attributes:
        tokens: (1 + h * w, C), entering the last block.
        roots: (h * w, h * w) uint16, roots of the mean attention of the blocks before the last,
            in shares of each row's largest.
        largest: (h * w, 1) float32, the largest root of each row.
        blocks: of how many blocks it is the mean.
        grid: (h, w).
    """

    tokens: np.ndarray
    roots: np.ndarray
    largest: np.ndarray
    blocks: int
    grid: tuple[int, int]


def kept_tokens(tokens: VisionTokens) -> list[KeptTokens]:
    """The tokens of each photo of a batch, ready to be written.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> (kept,) = kept_tokens(model.tokens_before_last_block(torch.zeros(1, 3, 32, 48)))
        >>> kept.tokens.shape, kept.roots.shape, kept.roots.dtype, kept.blocks
        ((7, 192), (6, 6), dtype('uint16'), 1)
    """
    blocks = tokens.attention.shape[1]
    mean = tokens.attention.sum(dim=1, dtype=torch.float32) / max(1, blocks)
    roots = mean.sqrt()
    largest = roots.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    # NumPy has no bfloat16.
    exact = tokens.tokens.float() if tokens.tokens.dtype == torch.bfloat16 else tokens.tokens
    levels = (roots / largest * LEVELS).round().to(torch.int32)
    arrays = (part.cpu().numpy() for part in (exact, levels, largest))
    return [
        KeptTokens(own, own_levels.astype(np.uint16), own_largest, blocks, tokens.grid)
        for own, own_levels, own_largest in zip(*arrays, strict=True)
    ]


def vision_tokens(
    photos: Sequence[KeptTokens], device: torch.device, dtype: torch.dtype
) -> VisionTokens:
    """A batch of kept tokens as :func:`~vpl_plugin.localization.grad_cam` takes them.

    Args:
        photos: of one grid.
        device: of the model.
        dtype: that the model computes in.

    Returns:
        The tokens; their attention is the mean, seen as often as there were blocks.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> tokens = model.tokens_before_last_block(torch.zeros(1, 3, 32, 48))
        >>> again = vision_tokens(kept_tokens(tokens), model.device, model.dtype)
        >>> torch.equal(again.tokens, tokens.tokens), again.attention.shape
        (True, torch.Size([1, 1, 6, 6]))
    """

    def together(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device)

    shares = together([photo.roots.astype(np.float32) for photo in photos]) / LEVELS
    mean = (shares * together([photo.largest for photo in photos])).square()
    tokens = together([photo.tokens for photo in photos]).to(dtype)
    # A view: the mean is in memory once.
    attention = mean[:, None].expand(-1, photos[0].blocks, -1, -1)
    return VisionTokens(tokens, attention, photos[0].grid)


def kept_bytes(patches: int, token_width: int, dtype: torch.dtype) -> int:
    """What a photo's file takes, but for its headers.

    Args:
        patches: how many it has.
        token_width: C.
        dtype: that the model computes in.

    Example:
        >>> kept_bytes(768, 192, torch.float32)
        1773312
    """
    number = torch.float32.itemsize if dtype == torch.bfloat16 else dtype.itemsize
    return (1 + patches) * token_width * number + patches * (2 * patches + 4)
