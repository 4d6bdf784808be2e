"""One view of the vision transformers of open_clip, of OpenAI's CLIP and of the embedded model.

They share the names of their parts (``conv1``, ``class_embedding``, ``positional_embedding``,
``ln_pre``, ``transformer.resblocks``, ``ln_post``, ``proj``) and differ in token order, layer
norms and what their forward returns. The tower reads the parts and runs them itself, batch first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.clip.attention import self_attention, self_attention_with_map
from vpl_plugin.clip.pooled_block import PooledBlock
from vpl_plugin.errors import InputError

__all__ = ["UnsupportedModelError", "VisionTower", "resize_positions"]

_SUPPORTED = (
    "Supported are plain vision transformers: open_clip's VisionTransformer without attentional "
    "pooling and with the default block, OpenAI's CLIP ViTs, and the embedded model 'mini'."
)


def resize_positions(
    positions: Tensor, native_grid: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Positional embeddings for a photo's grid, bilinearly (align_corners=False) as in CLIP-ES.

    Args:
        positions: (1 + h0 * w0, C), the class token's first.
        native_grid: (h0, w0), the grid the model was trained at.
        grid: (h, w), the photo's.

    Returns:
        (1 + h * w, C), in the dtype of ``positions``; the class token's row is unchanged.

    Example:
        >>> import torch
        >>> positions = torch.tensor([[9.0], [0.0], [0.0], [4.0], [4.0]])
        >>> resize_positions(positions, (2, 2), (4, 1)).flatten().tolist()
        [9.0, 0.0, 1.0, 3.0, 4.0]
    """
    if grid == native_grid:
        return positions
    patches = positions[1:].T.reshape(1, -1, *native_grid)
    # Half precision has no bilinear kernel on every device, and loses digits.
    resized = F.interpolate(patches.float(), size=grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T.to(positions.dtype)])


def layer_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer norm run in its own dtype (float32 in a half-precision tower)."""
    if isinstance(layer, nn.LayerNorm):
        return layer(x.to(layer.weight.dtype)).to(x.dtype)
    # Models without ln_pre have the identity there.
    return layer(x)


def feed_forward(block: Any, x: Tensor) -> Tensor:
    """The second half of a block, with its residual: (B, L, C) to (B, L, C)."""
    return x + _layer_scale(block, "ls_2", block.mlp(layer_norm(block.ln_2, x)))


def add_attention(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """The residual around a block's attention."""
    return x + scaled_attention(block, attended)


def scaled_attention(block: Any, attended: Tensor) -> Tensor:
    """What a block's attention adds: the same, but for blocks with a layer scale."""
    return _layer_scale(block, "ls_1", attended)


def _layer_scale(block: Any, name: str, x: Tensor) -> Tensor:
    scale = getattr(block, name, None)
    return x if scale is None else scale(x)


class UnsupportedModelError(InputError, TypeError):
    """The model is none whose vision tower is a plain vision transformer.

    A TypeError for who passes an object, an InputError for who passes a name.
    """


class VisionTower:
    """A vision transformer's parts, checked, and the steps from pixels to projected tokens.

    Attributes:
        patch_size: side of a patch in pixels.
        token_width: C.
        embed_dim: D, the width of the space shared with the texts.
        native_grid: (h, w) of the positional embedding.

    Raises:
        UnsupportedModelError: ``visual`` is a tower of another kind.
    """

    def __init__(self, visual: Any) -> None:
        _check_tower(visual)
        self._visual = visual
        self.patch_size = _patch_size(visual)
        self.token_width, self.embed_dim = map(int, visual.proj.shape)
        self.native_grid = _native_grid(visual)

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self._visual.proj.device

    @property
    def dtype(self) -> torch.dtype:
        """What the tower computes in."""
        return self._visual.proj.dtype

    @property
    def blocks(self) -> Sequence[Any]:
        """The transformer blocks, in order."""
        return self._visual.transformer.resblocks

    def embed(self, pixels: Tensor, position_dtype: torch.dtype | None) -> Tensor:
        """Pixels (B, 3, H, W) to the tokens (B, 1 + h * w, C) that enter the first block."""
        visual = self._visual
        patches = visual.conv1(pixels.to(self.dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        positions = resize_positions(visual.positional_embedding, self.native_grid, grid)
        if position_dtype is not None:
            positions = positions.to(position_dtype)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return layer_norm(visual.ln_pre, tokens + positions.to(tokens.dtype))

    def norm(self, block: int, tokens: Tensor) -> Tensor:
        """The first layer norm of a block."""
        return layer_norm(self.blocks[block].ln_1, tokens)

    def run(self, block: int, tokens: Tensor) -> Tensor:
        """One block, (B, L, C) to (B, L, C)."""
        parts = self.blocks[block]
        attended = self_attention(parts.attn, self.norm(block, tokens))
        return feed_forward(parts, add_attention(parts, tokens, attended))

    def run_until(self, block: int, tokens: Tensor) -> Tensor:
        """The blocks before one of them, (B, L, C) to (B, L, C)."""
        for index in range(len(self.blocks))[:block]:
            tokens = self.run(index, tokens)
        return tokens

    def run_after_norm(
        self, block: int, tokens: Tensor, activations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One block from its layer norm on: the output (B, L, C) and the map (B, h*w, h*w).

        The class token is dropped from both axes of the head-averaged map.
        """
        parts = self.blocks[block]
        attended, attention_map = self_attention_with_map(parts.attn, activations)
        output = feed_forward(parts, add_attention(parts, tokens, attended))
        return output, attention_map[:, 1:, 1:]

    def pooled_block(self, tokens: Tensor) -> PooledBlock:
        """The last block, what follows it, and the gradients of both, from (B, L, C)."""
        visual = self._visual
        activations = self.norm(-1, tokens)
        return PooledBlock(self.blocks[-1], visual.ln_post, visual.proj, tokens, activations)

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, C) to the patches' embeddings (B, L - 1, D), not normalised."""
        return layer_norm(self._visual.ln_post, tokens[:, 1:]) @ self._visual.proj

    def patch_projection(self) -> nn.Sequential:
        """A float32 copy of the layer norm and projection of :meth:`project`, without its tie."""
        norm = copy.deepcopy(self._visual.ln_post).float().requires_grad_(True)
        weight = self._visual.proj.detach().float()
        linear = nn.Linear(self.token_width, self.embed_dim, bias=False, device=weight.device)
        linear.weight.data.copy_(weight.T)
        return nn.Sequential(norm, linear)


def _check_tower(visual: Any) -> None:
    found = f"The model's vision tower is {type(visual).__module__}.{type(visual).__qualname__}"
    if hasattr(visual, "trunk"):
        raise UnsupportedModelError(f"{found}, a wrapper around timm. {_SUPPORTED}")
    if hasattr(visual, "layer4"):
        raise UnsupportedModelError(f"{found}, a ResNet. {_SUPPORTED}")
    parts = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "ln_post", "transformer")
    missing = [part for part in parts if getattr(visual, part, None) is None]
    if missing:
        raise UnsupportedModelError(f"{found}, which has no {', '.join(missing)}. {_SUPPORTED}")
    if getattr(visual, "attn_pool", None) is not None:
        raise UnsupportedModelError(f"{found} with attentional pooling. {_SUPPORTED}")
    if getattr(visual, "proj", None) is None:
        raise UnsupportedModelError(f"{found} without the projection 'proj'. {_SUPPORTED}")
    blocks = getattr(visual.transformer, "resblocks", ())
    if len(blocks) == 0:
        raise UnsupportedModelError(
            f"{found} without blocks in 'transformer.resblocks'. {_SUPPORTED}"
        )
    for index, block in enumerate(blocks):
        attention = getattr(block, "attn", None)
        plain = (
            isinstance(attention, nn.MultiheadAttention)
            and attention.in_proj_weight is not None
            and attention.bias_k is None
            and not attention.add_zero_attn
        )
        if not plain:
            raise UnsupportedModelError(
                f"{found}, whose block {index} is a {type(block).__qualname__} with attention of "
                f"type {type(attention).__qualname__}. {_SUPPORTED}"
            )

        missing = [part for part in ("c_fc", "gelu", "c_proj") if not hasattr(block.mlp, part)]
        if missing:
            raise UnsupportedModelError(
                f"{found}, whose block {index} has an MLP without {', '.join(missing)}. "
                f"{_SUPPORTED}"
            )


def _patch_size(visual: Any) -> int:
    size = getattr(visual, "patch_size", None)
    if size is None:
        size = visual.conv1.kernel_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if sides[0] != sides[1]:
        raise UnsupportedModelError(
            f"The model's patches are {sides[0]} x {sides[1]} pixels. {_SUPPORTED}"
        )
    return int(sides[0])


def _native_grid(visual: Any) -> tuple[int, int]:
    count = visual.positional_embedding.shape[0] - 1
    grid = getattr(visual, "grid_size", None)
    if grid is None:
        grid = (math.isqrt(count), math.isqrt(count))
    if grid[0] * grid[1] != count:
        raise UnsupportedModelError(
            f"The model has {count + 1} positional embeddings, which is not one for a class token "
            f"and one for each patch of a {grid[0]} x {grid[1]} grid. {_SUPPORTED}"
        )
    return int(grid[0]), int(grid[1])
