"""Cross-entropy on pseudo-masks: Eq. 14's, and one that gives the background half of the weight."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.core.loss_checks import check_maps, check_pseudo_masks

__all__ = ["CROSS_ENTROPIES", "CrossEntropy", "balanced_cross_entropy", "plain_cross_entropy"]


class CrossEntropy(Protocol):
    """Maps and pseudo-masks to a loss."""

    def __call__(self, logits: Tensor, pseudo_masks: Tensor, *, ignore_index: int = 255) -> Tensor:
        """The loss of a batch, 0-d."""


def plain_cross_entropy(logits: Tensor, pseudo_masks: Tensor, *, ignore_index: int = 255) -> Tensor:
    r"""The mean over all pixels that have a label, L_ce of Eq. 14 of the VPL paper.

    .. math:: L_{ce} = -\frac{1}{|P|} \sum_{p \in P} \log \mathrm{softmax}(A_p)_{M_p}

    Args:
        logits: (B, C, H, W), A, maps before softmax.
        pseudo_masks: (B, H, W), M, integer class indices in [0, C), or ignore_index.
        ignore_index: the index of pixels without a label; no class's own.

    Returns:
        0-d, in nats, float32 at least, under autocast too; 0, with gradients of 0, where no pixel
        has a label. Nothing waits for the device.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        ValueError: shapes do not fit, devices differ, or ignore_index is a class's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
        >>> plain_cross_entropy(logits, torch.tensor([[[0, 0, 1]]]))
        tensor(0.5044)
    """
    total, targets = _cross_entropy(logits, pseudo_masks, ignore_index, "sum")
    # Torch's own mean is 0 / 0 where every pixel is ignored.
    return total / (targets != ignore_index).sum().clamp_min(1)


def balanced_cross_entropy(
    logits: Tensor, pseudo_masks: Tensor, *, ignore_index: int = 255
) -> Tensor:
    r"""Half the mean over background pixels, half that over the pixels of all other classes.

    .. math:: L_{ce} = \frac{1}{2} \bigg(
        \frac{1}{|P_0|} \sum_{p \in P_0} \ell_p + \frac{1}{|P_+|} \sum_{p \in P_+} \ell_p \bigg),
        \quad \ell_p = -\log \mathrm{softmax}(A_p)_{M_p}

    with :math:`P_0` the pixels labelled 0, the background, and :math:`P_+` the other labelled ones,
    of the whole batch. So the background, most of what photos show, does not outvote the classes
    (as in WeCLIP's segmentation loss, CVPR 2024). A batch with only one of the two kinds has the
    mean over that.

    Args:
        logits: (B, C, H, W), A, maps before softmax, channel 0 the background.
        pseudo_masks: (B, H, W), M, integer class indices in [0, C), or ignore_index.
        ignore_index: the index of pixels without a label; no class's own.

    Returns:
        0-d, in nats, float32 at least, under autocast too; 0, with gradients of 0, where no pixel
        has a label. Nothing waits for the device.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        ValueError: shapes do not fit, devices differ, or ignore_index is a class's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
        >>> balanced_cross_entropy(logits, torch.tensor([[[0, 0, 1]]]))
        tensor(0.5516)
    """
    pixels, targets = _cross_entropy(logits, pseudo_masks, ignore_index, "none")
    background = targets == 0
    foreground = ~background & (targets != ignore_index)
    counts = torch.stack([background.sum(), foreground.sum()])
    means = torch.stack([(pixels * background).sum(), (pixels * foreground).sum()])
    means = means / counts.clamp_min(1)
    # Half each where both are there, else all for the one.
    return means.sum() / (counts > 0).sum().clamp_min(1)


CROSS_ENTROPIES: dict[str, CrossEntropy] = {
    "plain": plain_cross_entropy,
    "balanced": balanced_cross_entropy,
}
"""The cross-entropies of Eq. 14, by name."""


def _cross_entropy(
    logits: Tensor, pseudo_masks: Tensor, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Torch's cross-entropy, 0 at pixels without a label, and the targets as int64."""
    check_maps("logits", logits, "C")
    check_pseudo_masks(pseudo_masks, logits, ignore_index)
    targets = pseudo_masks.long()
    with torch.autocast(logits.device.type, enabled=False):
        maps = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(maps, targets, ignore_index=ignore_index, reduction=reduction)
    return loss, targets
