"""Min-max normalisation of activation maps."""

from __future__ import annotations

from torch import Tensor

__all__ = ["min_max"]


def min_max(cams: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Stretch every map to [0, 1): subtract its minimum, divide by ``epsilon`` plus its maximum.

    A constant map becomes all zeros. The rule and its epsilon are those of CLIP-ES and grad-cam.

    Args:
        cams: (..., h, w), each map normalised by itself.
        epsilon: keeps a constant map from dividing by zero.

    Returns:
        (..., h, w), the smallest value of each map 0, the largest just below or equal to 1.

    Example:
        >>> import torch
        >>> min_max(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        tensor([[0.0000, 0.2500],
                [0.5000, 1.0000]])
    """
    shifted = cams - cams.amin(dim=(-2, -1), keepdim=True)
    return shifted / (epsilon + shifted.amax(dim=(-2, -1), keepdim=True))
