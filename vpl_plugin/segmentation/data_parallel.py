"""One batch over several processes: every rank runs on its photos and knows the loss of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vpl_plugin.core.distributed import sum_over_ranks
from vpl_plugin.distributed import Ranks

__all__ = ["gather", "gather_with_gradient", "sum_gradients"]


def gather_with_gradient(maps: Tensor, ranks: Ranks) -> Tensor:
    """The maps (B, ...) of all ranks, for a loss that every rank computes alike.

    Each rank's share of that loss's gradient is whole already, so none is exchanged on the way
    back; what is left is to sum the parameters' gradients over the ranks.
    """
    return _Gathered.apply(maps, ranks)


class _Gathered(torch.autograd.Function):
    """What :func:`gather_with_gradient` does, as autograd takes it."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.count = ranks, len(maps)
        return gather(maps, ranks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        first = ctx.ranks.rank * ctx.count
        return gradient[first : first + ctx.count], None


def gather(value: Tensor, ranks: Ranks) -> Tensor:
    """The values (B, ...) of all ranks, in their order, without gradient."""
    everyones = [torch.empty_like(value) for _ in range(ranks.world)]
    dist.all_gather(everyones, value.contiguous())
    return torch.cat(everyones)


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every rank the sum of all ranks' gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    shares = together.split([gradient.numel() for gradient in gradients])
    for gradient, share in zip(gradients, shares, strict=True):
        gradient.copy_(share.view_as(gradient))
