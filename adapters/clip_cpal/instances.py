"""Instance prototypes: masked average pooling of a photo's features, a vector per class present.

From the paper: the features where the CAM exceeds a threshold, averaged. Ours: which CAM (the one
after the attention affinity) and what stands in where no patch exceeds it (the patch of the
largest value).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.constants import THRESHOLD
from vpl_plugin.checks import check_fraction, check_matrix, describe
from vpl_plugin.errors import InputError

__all__ = ["instance_prototypes"]


def instance_prototypes(features: Tensor, cams: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """One vector for each class present: the mean feature where its CAM exceeds a threshold.

    Args:
        features: (P, D), of one photo.
        cams: (K, h, w) with h * w = P, values in [0, 1].
        threshold: in [0, 1].

    Returns:
        (K, D), in the dtype of the features. A CAM that nowhere exceeds the threshold is
        represented by its best patch.

    Raises:
        TypeError: features that are no floating-point tensor.
        ValueError: shapes that do not fit, a threshold outside [0, 1].

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> instance_prototypes(features, torch.tensor([[[0.1, 0.9, 0.5]]]))
        tensor([[0.3000, 0.9000]])
    """
    check_matrix("features", features)
    check_fraction("threshold", threshold)
    if cams.ndim != 3 or cams.shape[1] * cams.shape[2] != len(features):
        raise InputError(
            f"cams must have shape (K, h, w) with h * w = {len(features)}, a value for each row of"
            f" features; got {describe(cams)}"
        )
    maps = cams.flatten(1)
    inside = maps > torch.minimum(
        # Just below the largest value, so that the best patch is always inside.
        torch.full_like(maps[:, :1], threshold),
        maps.amax(dim=1, keepdim=True).nextafter(maps.new_tensor(-1.0)),
    )
    weights = inside.to(features.dtype)
    return weights @ features / weights.sum(dim=1, keepdim=True)
