"""ClearCLIP's features (Lan et al., ECCV 2024): the last block's attention output alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.clip.attention import heads, join_heads
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.vision_tower import VisionTower, scaled_attention

__all__ = ["clearclip"]


@FEATURE_KINDS.register("clearclip")
def clearclip(tower: VisionTower, tokens: Tensor) -> Tensor:
    r"""Queries attend to queries, without residual and MLP.

    What is projected is :math:`W_o\,\mathrm{softmax}(q q^\top s)\,v`.
    """
    tokens = tower.run_until(-1, tokens)
    block = tower.blocks[-1]
    query, _, value = heads(block.attn, tower.norm(-1, tokens))
    mixed = F.scaled_dot_product_attention(query, query, value)
    return scaled_attention(block, join_heads(block.attn, mixed))
