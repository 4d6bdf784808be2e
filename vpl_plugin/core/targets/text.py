"""The distribution of the text prototypes: Eq. 5."""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.core.targets import TARGETS

__all__ = ["text_distribution"]


@TARGETS.register("text")
def text_distribution(
    features: Tensor,
    text_prototypes: Tensor,
    tau_T: float = 0.01,
    *,
    label_masks: Tensor | None = None,
) -> Tensor:
    r"""The distribution of the text prototypes at each pixel (Eq. 5 of the VPL paper).

    .. math:: P'_{p,n} = \frac{\exp(x_p^\top z_n / \tau_T)}{\sum_m \exp(x_p^\top z_m / \tau_T)}

    Args:
        features: (P, D), unit rows.
        text_prototypes: (N, D), unit rows.
        tau_T: CLIP's temperature, above 0.
        label_masks: (P, N) bool, True where the class is known to be present in the pixel's
            photo; the others get probability 0. None: every class may be present.

    Returns:
        (P, N), rows that sum to 1.

    Example:
        >>> text_distribution(torch.eye(2), torch.eye(2), tau_T=1.0)
        tensor([[0.7311, 0.2689],
                [0.2689, 0.7311]])
    """
    logits = features @ text_prototypes.T / tau_T
    if label_masks is not None:
        logits = logits.masked_fill(~label_masks, -torch.inf)
    return logits.softmax(dim=1)
