"""CLIP Surgery's features (Li et al., 2023): a second path of value-value attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.clip.attention import heads, join_heads
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.vision_tower import VisionTower, add_attention

__all__ = ["surgery"]

# As published; a tower of fewer blocks has the second path in all of them.
BLOCKS = 6


@FEATURE_KINDS.register("surgery")
def surgery(tower: VisionTower, tokens: Tensor) -> Tensor:
    r"""Beside the last six blocks a path without MLPs, in which values attend to values.

    They are those of the tower's own path x, which goes on as it is; the new path only
    adds: :math:`\hat x \leftarrow \hat x + W_o\,\mathrm{softmax}(v v^\top s)\,v` with
    :math:`v` of :math:`\mathrm{LN}(x)`.
    """
    first = max(0, len(tower.blocks) - BLOCKS)
    own = tower.run_until(first, tokens)
    new = own
    for index in range(first, len(tower.blocks)):
        block = tower.blocks[index]
        _, _, value = heads(block.attn, tower.norm(index, own))
        mixed = F.scaled_dot_product_attention(value, value, value)
        new = add_attention(block, new, join_heads(block.attn, mixed))
        own = tower.run(index, own)
    return new
