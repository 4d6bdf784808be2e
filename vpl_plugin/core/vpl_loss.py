"""The loss of phase 2: cross-entropy on pseudo-masks and regional contrast (Eq. 14)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpl_plugin.checks import (
    check_choice,
    check_embeddings_and_prototypes,
    check_labels,
    check_maps,
    check_not_negative,
)
from vpl_plugin.core.cross_entropy import CROSS_ENTROPIES, check_pseudo_masks
from vpl_plugin.core.rsc import Contrast, check_inside, contrast
from vpl_plugin.errors import InputError

__all__ = ["VPLLoss", "VPLLossTerms", "vpl_loss"]


class VPLLossTerms(NamedTuple):
    """Eq. 14 and its two terms; ``total`` is what to call ``backward()`` on.

    Attributes:
        total: 0-d, lambda_ce * ce + lambda_rsc * rsc.
        ce: 0-d, the cross-entropy, unweighted, in nats; 0 where its weight is 0.
        rsc: 0-d, the regional semantic contrast, unweighted, in nats; 0 where its weight is 0.
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
    detach_masks: bool = False,
    centred: bool = False,
    least_area: float = 0.0,
    num_background: int = 0,
    inside: Tensor | None = None,
    ce: str = "plain",
    ignore_index: int = 255,
) -> VPLLossTerms:
    r"""The final loss (Eq. 14 of the VPL paper).

    .. math:: L = \lambda_{ce} L_{ce}(M, A) + \lambda_{RSC} L_{RSC}

    L_ce is averaged over the pixels that have a label, and is 0 in a batch that has none. The
    segmentation maps and the embeddings may differ in resolution, and C from N, for example
    where all background prototypes answer to one background map. Both terms are computed in
    float32 at least, under autocast too. A term of weight 0 is not computed at all; where both
    are, the total is a constant that has no gradient.

    Args:
        logits: (B, C, H, W) segmentation maps before softmax.
        pseudo_masks: (B, H, W) integer class indices in [0, C), or ignore_index.
        embeddings: (B, D, H', W'), V of Eq. 12.
        prototypes: (N, D), W.
        labels: (B, N) multi-hot, the classes of W present in each image.
        lambda_ce: weight of the cross-entropy, 0 or more; 1 in the paper.
        lambda_rsc: weight of the regional contrast, 0 or more; 1 in the paper.
        tau: temperature of the contrast, see :func:`~vpl_plugin.core.rsc.rsc_loss`.
        activation: of the contrast's masks.
        detach_masks: no gradient flows through them.
        centred: cosines are taken about the mean.
        least_area: of a class that counts, as a share of the image.
        num_background: of the rows of W that are background.
        inside: (B, H', W'), any value but 0 where the image is and not its padding; None for
            everywhere.
        ce: "plain", Eq. 14's, or "balanced", see
            :func:`~vpl_plugin.core.cross_entropy.balanced_cross_entropy`.
        ignore_index: the index of pixels without a label; no class's own.

    Returns:
        The total and its two terms.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        InputError: shapes do not fit, devices differ or a setting is out of range.

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
        raise InputError(
            "logits and embeddings must hold the same images;"
            f" got B = {len(logits)} and B = {len(embeddings)}"
        )
    check_labels(labels, len(embeddings), len(prototypes), embeddings)
    settings = Contrast(tau, activation, detach_masks, centred, least_area, num_background)
    _check_settings(lambda_ce, lambda_rsc, settings, ce)
    check_inside(inside, embeddings)
    # A product with 0 would still let NaN and infinity through.
    not_computed = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    ce_term = CROSS_ENTROPIES[ce](logits, pseudo_masks, ignore_index) if lambda_ce else not_computed
    rsc_term = (
        contrast(embeddings, prototypes, labels, settings, inside) if lambda_rsc else not_computed
    )
    return VPLLossTerms(lambda_ce * ce_term + lambda_rsc * rsc_term, ce_term, rsc_term)


def _check_settings(lambda_ce: float, lambda_rsc: float, settings: Contrast, ce: str) -> None:
    check_not_negative("lambda_ce", lambda_ce)
    check_not_negative("lambda_rsc", lambda_rsc)
    settings.check()
    check_choice("ce", ce, CROSS_ENTROPIES)


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
        detach_masks: bool = False,
        centred: bool = False,
        least_area: float = 0.0,
        num_background: int = 0,
        ce: str = "plain",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.contrast = Contrast(tau, activation, detach_masks, centred, least_area, num_background)
        _check_settings(lambda_ce, lambda_rsc, self.contrast, ce)
        self.lambda_ce = lambda_ce
        self.lambda_rsc = lambda_rsc
        self.ce = ce
        self.ignore_index = ignore_index

    def forward(
        self,
        logits: Tensor,
        pseudo_masks: Tensor,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: Tensor,
        inside: Tensor | None = None,
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
            **self.contrast._asdict(),
            inside=inside,
            ce=self.ce,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        shown = (
            f"lambda_ce={self.lambda_ce}, lambda_rsc={self.lambda_rsc}, {self.contrast.shown()},"
            f" ignore_index={self.ignore_index}"
        )
        # As torch's own layers do, what the paper does not have is named where it is on.
        return shown if self.ce == "plain" else f"{shown}, ce={self.ce!r}"
