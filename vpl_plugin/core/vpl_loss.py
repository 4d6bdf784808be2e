"""The loss of phase 2: cross-entropy on pseudo-masks and regional contrast (Eq. 14)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.core.checks import check_choice, check_not_negative, check_positive
from vpl_plugin.core.loss_checks import (
    check_embeddings_and_prototypes,
    check_labels,
    check_maps,
    check_pseudo_masks,
)
from vpl_plugin.core.masked_pooling import ACTIVATIONS
from vpl_plugin.core.rsc import rsc_loss

__all__ = ["VPLLoss", "VPLLossTerms", "vpl_loss"]


class VPLLossTerms(NamedTuple):
    """Eq. 14 and its two terms; ``total`` is what to call ``backward()`` on.

    Attributes:
        total: 0-d, lambda_ce * ce + lambda_rsc * rsc.
        ce: 0-d, the cross-entropy, unweighted, in nats.
        rsc: 0-d, the regional semantic contrast, unweighted, in nats.
    """

    total: Tensor
    ce: Tensor
    rsc: Tensor


def vpl_loss(
    logits: Tensor,
    pseudo_masks: Tensor,
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    lambda_ce: float = 1.0,
    lambda_rsc: float = 1.0,
    tau: float = 0.07,
    activation: str = "relu",
    ignore_index: int = 255,
) -> VPLLossTerms:
    r"""The final loss (Eq. 14 of the VPL paper).

    .. math:: L = \lambda_{ce} L_{ce}(M, A) + \lambda_{RSC} L_{RSC}

    L_ce is averaged over the pixels that have a label, and is 0 in a batch that has none. The
    segmentation maps and the embeddings may differ in resolution, and C from N, for example
    where all background prototypes answer to one background map. Both terms are computed in
    float32 at least, under autocast too.

    Args:
        logits: (B, C, H, W) segmentation maps before softmax.
        pseudo_masks: (B, H, W) integer class indices in [0, C), or ignore_index.
        embeddings: (B, D, H', W'), V of Eq. 12.
        prototypes: (N, D), W.
        labels: (B, N) multi-hot, the classes of W present in each image.
        lambda_ce: weight of the cross-entropy, 0 or more; 1 in the paper.
        lambda_rsc: weight of the regional contrast, 0 or more; 1 in the paper.
        tau: temperature of the contrast, see :func:`~vpl_plugin.core.rsc.rsc_loss`.
        activation: makes masks of activations, see
            :func:`~vpl_plugin.core.masked_pooling.class_activation`.
        ignore_index: the index of pixels without a label; no class's own.

    Returns:
        The total and its two terms.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        ValueError: shapes do not fit, devices differ or a setting is out of range.

    Example:
        >>> terms = vpl_loss(
        ...     logits=torch.zeros(2, 3, 4, 4),
        ...     pseudo_masks=torch.full((2, 4, 4), 255),
        ...     embeddings=torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 2, 1, 1),
        ...     prototypes=torch.eye(2),
        ...     labels=torch.tensor([[1, 0], [0, 1]]),
        ...     tau=1.0,
        ... )
        >>> terms.total, terms.ce, terms.rsc
        (tensor(0.4489), tensor(0.), tensor(0.4489))
    """
    check_maps("logits", logits, "C")
    check_pseudo_masks(pseudo_masks, logits, ignore_index)
    check_embeddings_and_prototypes(embeddings, prototypes)
    if len(embeddings) != len(logits):
        raise ValueError(
            "logits and embeddings must hold the same images;"
            f" got B = {len(logits)} and B = {len(embeddings)}"
        )
    check_labels(labels, len(embeddings), len(prototypes), embeddings)
    _check_settings(lambda_ce, lambda_rsc, tau, activation)
    ce = _cross_entropy(logits, pseudo_masks, ignore_index)
    rsc = rsc_loss(embeddings, prototypes, labels, tau=tau, activation=activation)
    return VPLLossTerms(lambda_ce * ce + lambda_rsc * rsc, ce, rsc)


def _cross_entropy(logits: Tensor, pseudo_masks: Tensor, ignore_index: int) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    targets = pseudo_masks.long()
    labelled = (targets != ignore_index).sum().clamp_min(1)
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(
            logits.to(dtype), targets, ignore_index=ignore_index, reduction="sum"
        )
        # Torch's own mean is 0 / 0 where every pixel is ignored.
        return total / labelled


def _check_settings(lambda_ce: float, lambda_rsc: float, tau: float, activation: str) -> None:
    check_not_negative("lambda_ce", lambda_ce)
    check_not_negative("lambda_rsc", lambda_rsc)
    check_positive("tau", tau)
    check_choice("activation", activation, ACTIVATIONS)


class VPLLoss(nn.Module):
    """The final loss as a module; arguments and result are those of :func:`vpl_loss`.

    Example:
        >>> loss = VPLLoss(lambda_rsc=0.5)
        >>> terms = loss(
        ...     torch.zeros(1, 3, 4, 4),
        ...     torch.ones(1, 4, 4, dtype=torch.long),
        ...     torch.ones(1, 2, 4, 4),
        ...     torch.eye(2),
        ...     torch.tensor([[1, 0]]),
        ... )
        >>> terms.total
        tensor(1.0986)
    """

    def __init__(
        self,
        *,
        lambda_ce: float = 1.0,
        lambda_rsc: float = 1.0,
        tau: float = 0.07,
        activation: str = "relu",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        _check_settings(lambda_ce, lambda_rsc, tau, activation)
        self.lambda_ce = lambda_ce
        self.lambda_rsc = lambda_rsc
        self.tau = tau
        self.activation = activation
        self.ignore_index = ignore_index

    def forward(
        self,
        logits: Tensor,
        pseudo_masks: Tensor,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: Tensor,
    ) -> VPLLossTerms:
        """The loss of a batch and its two terms."""
        return vpl_loss(
            logits,
            pseudo_masks,
            embeddings,
            prototypes,
            labels,
            lambda_ce=self.lambda_ce,
            lambda_rsc=self.lambda_rsc,
            tau=self.tau,
            activation=self.activation,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"lambda_ce={self.lambda_ce}, lambda_rsc={self.lambda_rsc}, tau={self.tau},"
            f" activation={self.activation!r}, ignore_index={self.ignore_index}"
        )
