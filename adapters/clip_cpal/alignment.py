"""Feature distribution alignment: a photo's features meet the support bank's.

From the paper: the features of an instance are shifted toward the distribution of the support bank
before they are compared with its prototypes. Our reading: the shift is the difference of the two
mean features, and cosines are taken about the bank's mean. CLIP's patch features lie in a narrow
cone (two patches of any photos have a cosine near its axis'), so that cosines about the origin are
large everywhere and the ReLU of the prototype-aware CAM would cut nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import check_fraction, check_matrix, describe
from vpl_plugin.errors import InputError

__all__ = ["align_features"]


def align_features(
    features: Tensor, photo_mean: Tensor, bank_mean: Tensor, alignment: float
) -> Tensor:
    r"""Directions about the bank's mean, of features shifted toward the bank's distribution.

    .. math:: u_p = \mathrm{unit}(x_p + \eta (\mu_b - \mu) - \mu_b)

    with :math:`\mu` the photo's mean and :math:`\mu_b` the bank's.

    Args:
        features: (P, D), rows of one photo.
        photo_mean: (D,), the mean feature of that photo.
        bank_mean: (D,), the mean feature of the photos in the bank.
        alignment: eta, in [0, 1]: 0 leaves the photo where it is, 1 moves its mean onto the bank's.

    Returns:
        (P, D), unit rows (zeros where a feature is the very mean).

    Raises:
        TypeError: features that are no floating-point tensor.
        ValueError: shapes that do not fit, alignment outside [0, 1].

    Example:
        >>> import torch
        >>> features = torch.tensor([[3.0, 4.0], [3.0, 2.0]])
        >>> align_features(features, features.mean(0), torch.zeros(2), 1.0)
        tensor([[ 0.,  1.],
                [ 0., -1.]])
    """
    check_matrix("features", features)
    check_fraction("alignment", alignment)
    for name, mean in (("photo_mean", photo_mean), ("bank_mean", bank_mean)):
        if mean.shape != features.shape[1:]:
            raise InputError(
                f"{name} must have shape {tuple(features.shape[1:])} to go with features of shape"
                f" {tuple(features.shape)}; got {describe(mean)}"
            )
    centre = bank_mean + alignment * (photo_mean - bank_mean)
    return F.normalize(features - centre, dim=1)
