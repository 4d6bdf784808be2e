"""Cross-entropy on pseudo-masks: Eq. 14's, and one that gives the background half of the weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import (
    check_ignore_index,
    check_maps,
    check_same_device,
    describe,
    is_integer,
)
from vpl_plugin.errors import InputError

__all__ = ["CROSS_ENTROPIES", "balanced_cross_entropy", "plain_cross_entropy"]


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
        InputError: shapes do not fit, devices differ, or ignore_index is a class's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
        >>> plain_cross_entropy(logits, torch.tensor([[[0, 0, 1]]]))
        tensor(0.5044)
    """
    check_maps("logits", logits, "C")
    check_pseudo_masks(pseudo_masks, logits, ignore_index)
    return _plain(logits, pseudo_masks, ignore_index)


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
        InputError: shapes do not fit, devices differ, or ignore_index is a class's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
        >>> balanced_cross_entropy(logits, torch.tensor([[[0, 0, 1]]]))
        tensor(0.5516)
    """
    check_maps("logits", logits, "C")
    check_pseudo_masks(pseudo_masks, logits, ignore_index)
    return _balanced(logits, pseudo_masks, ignore_index)


def _plain(logits: Tensor, pseudo_masks: Tensor, ignore_index: int) -> Tensor:
    total, targets = _cross_entropy(logits, pseudo_masks, ignore_index, "sum")
    # Torch's own mean is 0 / 0 where every pixel is ignored.
    return total / (targets != ignore_index).sum().clamp_min(1)


def _balanced(logits: Tensor, pseudo_masks: Tensor, ignore_index: int) -> Tensor:
    pixels, targets = _cross_entropy(logits, pseudo_masks, ignore_index, "none")
    background = targets == 0
    foreground = ~background & (targets != ignore_index)
    counts = torch.stack([background.sum(), foreground.sum()])
    means = torch.stack([(pixels * background).sum(), (pixels * foreground).sum()])
    means = means / counts.clamp_min(1)
    # Half each where both are there, else all for the one.
    return means.sum() / (counts > 0).sum().clamp_min(1)


CROSS_ENTROPIES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "plain": _plain,
    "balanced": _balanced,
}
"""The cross-entropies of Eq. 14 by name, of maps, pseudo-masks and ignore_index known to fit."""


def _cross_entropy(
    logits: Tensor, pseudo_masks: Tensor, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Torch's cross-entropy, 0 at pixels without a label, and the targets as int64."""
    targets = pseudo_masks.long()
    with torch.autocast(logits.device.type, enabled=False):
        maps = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(maps, targets, ignore_index=ignore_index, reduction=reduction)
    return loss, targets


def check_pseudo_masks(pseudo_masks: object, logits: Tensor, ignore_index: int) -> None:
    """Class indices (B, H, W) at the logits' resolution, and an ignore_index that is no class."""
    if not isinstance(pseudo_masks, Tensor) or not is_integer(pseudo_masks):
        raise TypeError(
            f"pseudo_masks must be an integer torch.Tensor; got {describe(pseudo_masks)}"
        )
    batch, classes, height, width = logits.shape
    if pseudo_masks.shape != (batch, height, width):
        raise InputError(
            f"pseudo_masks must have shape ({batch}, {height}, {width}), that of the logits"
            f" (resize the logits first); got {describe(pseudo_masks)}"
        )
    check_ignore_index(ignore_index, classes)
    check_same_device("pseudo_masks", pseudo_masks, "logits", logits)
