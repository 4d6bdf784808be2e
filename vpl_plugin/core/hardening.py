"""Targets made one-hot where they are sure: the threshold Phi of Table 6."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["harden"]


def harden(probabilities: Tensor, threshold: float) -> Tensor:
    """Rows whose largest probability exceeds the threshold Phi become one-hot.

    This is the paper's "threshold Phi for generating 0-1 seed masks" (Table 6), and the
    pseudo-label rule of InMaP (Qian et al., NeurIPS 2023).

    Args:
        probabilities: (P, N), rows that sum to 1.
        threshold: Phi, in [0, 1].

    Returns:
        (P, N).

    Example:
        >>> harden(torch.tensor([[0.7, 0.3], [0.5, 0.5]]), threshold=0.6)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    confidence, best = probabilities.max(dim=1, keepdim=True)
    one_hot = torch.zeros_like(probabilities).scatter_(1, best, 1.0)
    return torch.where(confidence > threshold, one_hot, probabilities)
