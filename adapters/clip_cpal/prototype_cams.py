"""The prototype-aware CAM: how close each patch is to the soft positives of its photo's instance.

From the paper: the ReLU of the weighted mean of the cosine similarities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.checks import check_matrix, check_same_columns, describe
from vpl_plugin.errors import InputError

__all__ = ["prototype_aware_cam"]


def prototype_aware_cam(features: Tensor, context: Tensor, positiveness: Tensor) -> Tensor:
    r"""The map :math:`\mathrm{ReLU}(\sum_m \omega_m \cos(u_p, c_m))` of one class.

    Args:
        features: (P, D), unit rows, as :func:`~vpl_plugin.adapters.clip_cpal.align_features` gives
            them.
        context: (M, D), unit rows, context prototypes of the class.
        positiveness: (M,), weights that sum to 1.

    Returns:
        (P,), values in [0, 1], not stretched.

    Raises:
        TypeError: no floating-point tensors.
        ValueError: shapes that do not fit.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> prototype_aware_cam(features, torch.eye(2), torch.tensor([0.75, 0.25]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    check_matrix("features", features)
    check_matrix("context", context)
    check_same_columns("features", features, "context", context)
    if positiveness.shape != context.shape[:1]:
        raise InputError(
            f"positiveness must have shape ({len(context)},), a weight for each context prototype;"
            f" got {describe(positiveness)}"
        )
    # The mean of cosines to unit vectors is the product with their mean.
    return torch.relu(features @ (positiveness @ context))
