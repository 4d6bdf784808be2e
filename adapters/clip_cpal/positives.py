"""Soft positives: the context prototypes nearest to an instance, and how positive each is.

From the paper: each instance takes its top-K context prototypes as positives, weighted by their
similarity to it ("positiveness"). Ours: the weights are a softmax over these K cosines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.constants import POSITIVENESS_TEMPERATURE, TOP_K
from vpl_plugin.checks import check_count, check_matrix, check_positive, check_same_columns

__all__ = ["soft_positives"]


def soft_positives(
    instances: Tensor,
    context: Tensor,
    top_k: int = TOP_K,
    temperature: float = POSITIVENESS_TEMPERATURE,
) -> Tensor:
    """The positiveness of every context prototype to every instance.

    Args:
        instances: (K, D), unit rows.
        context: (M, D), unit rows, the context prototypes of the instances' class.
        top_k: how many are positives; all where there are fewer.
        temperature: of the softmax over their cosines; the smaller, the more the nearest counts.

    Returns:
        (K, M), rows that sum to 1, zero but for the ``top_k`` nearest.

    Raises:
        TypeError: no floating-point tensors.
        ValueError: widths that differ, a count below 1, a temperature that is not above 0.

    Example:
        >>> context = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> soft_positives(torch.tensor([[1.0, 0.0]]), context, top_k=2, temperature=1.0)
        tensor([[0.5987, 0.4013, 0.0000]])
    """
    check_matrix("instances", instances)
    check_matrix("context", context)
    check_same_columns("instances", instances, "context", context)
    check_count("top_k", top_k)
    check_positive("temperature", temperature)
    similarity = instances @ context.T
    best = similarity.topk(min(top_k, len(context)), dim=1)
    return torch.zeros_like(similarity).scatter_(
        1, best.indices, (best.values / temperature).softmax(dim=1)
    )
