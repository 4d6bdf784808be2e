"""Self-attention from the weights of an ``nn.MultiheadAttention``, as pure functions.

The module itself returns maps only through a slow path, and its fast path is opaque to
``torch.func``; the weights are all that is needed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["heads", "join_heads", "self_attention", "self_attention_with_map"]


def heads(attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the tokens (B, L, C), each (B, heads, L, C / heads)."""
    batch, length, _ = x.shape
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    split = qkv.view(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = split.unbind(0)
    return query, key, value


def join_heads(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """What the heads mixed, (B, heads, L, C / heads), through the output projection: (B, L, C)."""
    return attention.out_proj(x.transpose(1, 2).flatten(2))


def self_attention(attention: nn.MultiheadAttention, x: Tensor, *, causal: bool = False) -> Tensor:
    """Multi-head self-attention without the map.

    Args:
        attention: the module whose weights are used; its ``batch_first`` does not matter here.
        x: tokens, (B, L, C).
        causal: a token sees itself and the tokens before it only.

    Returns:
        (B, L, C).

    Example:
        >>> import torch
        >>> layer = torch.nn.MultiheadAttention(8, 2)
        >>> self_attention(layer, torch.ones(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """
    mixed = F.scaled_dot_product_attention(*heads(attention, x), is_causal=causal)
    return join_heads(attention, mixed)


def self_attention_with_map(attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-head self-attention and its map, averaged over the heads.

    Written with plain products and a softmax, so that a batched backward
    (``torch.autograd.grad(..., is_grads_batched=True)``) and ``torch.func`` go through it.

    Args:
        attention: the module whose weights are used; its ``batch_first`` does not matter here.
        x: tokens, (B, L, C).

    Returns:
        The output (B, L, C) and the map (B, L, L), whose rows sum to 1.

    Example:
        >>> import torch
        >>> layer = torch.nn.MultiheadAttention(8, 2)
        >>> output, attention_map = self_attention_with_map(layer, torch.ones(1, 5, 8))
        >>> torch.allclose(attention_map, torch.full((1, 5, 5), 0.2))
        True
    """
    query, key, value = heads(attention, x)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    maps = scores.softmax(dim=-1)
    return join_heads(attention, maps @ value), maps.mean(dim=1)
