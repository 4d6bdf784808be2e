"""SCLIP's features (Wang et al., ECCV 2024): correlative self-attention in the last block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.clip.attention import heads, join_heads
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.vision_tower import VisionTower, add_attention, feed_forward

__all__ = ["sclip"]


@FEATURE_KINDS.register("sclip")
def sclip(tower: VisionTower, tokens: Tensor) -> Tensor:
    r"""Queries attend to queries, and keys to keys.

    The map is their sum, so its rows sum to 2, as in the paper:
    :math:`\mathrm{softmax}(q q^\top s) + \mathrm{softmax}(k k^\top s)`.
    """
    tokens = tower.run_until(-1, tokens)
    block = tower.blocks[-1]
    query, key, value = heads(block.attn, tower.norm(-1, tokens))
    mixed = F.scaled_dot_product_attention(query, query, value)
    mixed = mixed + F.scaled_dot_product_attention(key, key, value)
    return feed_forward(block, add_attention(block, tokens, join_heads(block.attn, mixed)))
