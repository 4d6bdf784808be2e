"""What prototypes say of each pixel: the probabilities of a photo's classes, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpl_plugin.checks import check_positive
from vpl_plugin.core.targets.text import text_distribution
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes, check_prototypes

__all__ = ["pixel_probabilities"]


def pixel_probabilities(
    features: Tensor, prototypes: Prototypes, classes: Sequence[int], temperature: float
) -> Tensor:
    """The distribution over all prototypes at each pixel (Eq. 3 and 5), summed into few rows.

    Args:
        features: (P, D), unit rows.
        prototypes: text or vision prototypes, on the features' device.
        classes: the K classes present in the photo.
        temperature: of the softmax, where the prototypes name none, above 0.

    Returns:
        (K + 2, P), columns that sum to 1: the classes present, all other classes together, the
        whole background together.

    Raises:
        TypeError: ``prototypes`` of the wrong kind.
        InputError: prototypes of another width, without background, a class that does not exist, or
            a temperature that is not above 0.

    Example:
        >>> pets = Prototypes(torch.eye(3), ("cat", "dog"))
        >>> pixel_probabilities(torch.eye(3)[:1], pets, [1], temperature=1.0)
        tensor([[0.2119],
                [0.5761],
                [0.2119]])
    """
    check_prototypes(prototypes, features.shape[-1])
    unknown = [index for index in classes if not 0 <= index < prototypes.num_foreground]
    if unknown:
        raise InputError(
            f"classes must be indices in [0, {prototypes.num_foreground - 1}]; got {unknown[0]}"
        )
    check_positive("temperature", temperature)
    rows = torch.nn.functional.normalize(prototypes.rows, dim=1)
    # Eq. 3 is of the same form: other rows, another temperature.
    shares = text_distribution(features, rows.to(features), prototypes.temperature or temperature)
    of_classes = shares[:, list(classes)]
    background = shares[:, prototypes.num_foreground :].sum(dim=1)
    others = (1 - of_classes.sum(dim=1) - background).clamp(min=0)
    return torch.cat([of_classes, others[:, None], background[:, None]], dim=1).T
