"""MaskCLIP's features (Zhou et al., ECCV 2022): no attention in the last block."""

from __future__ import annotations

from torch import Tensor

from vpl_plugin.clip.attention import heads, join_heads
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.vision_tower import VisionTower, add_attention, feed_forward

__all__ = ["maskclip"]


@FEATURE_KINDS.register("maskclip")
def maskclip(tower: VisionTower, tokens: Tensor) -> Tensor:
    r"""Each patch keeps its own value: :math:`y = x + W_o v,\ y + \mathrm{MLP}(\mathrm{LN}(y))`."""
    tokens = tower.run_until(-1, tokens)
    block = tower.blocks[-1]
    _, _, value = heads(block.attn, tower.norm(-1, tokens))
    return feed_forward(block, add_attention(block, tokens, join_heads(block.attn, value)))
