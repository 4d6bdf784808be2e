"""From CAMs to seeds: label maps, and the targets that vision prototypes are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import (
    check_cams,
    check_class_values,
    check_fraction,
    check_positive,
    check_same_columns,
    check_same_device,
    class_vector,
    describe,
)
from vpl_plugin.core.targets.text import text_distribution
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes, check_prototypes

__all__ = [
    "NO_SEED",
    "background_score",
    "cams_to_labels",
    "resize_cams",
    "seed_classes",
    "seed_targets",
    "targets_from_seeds",
]

NO_SEED = -1
"""Stands for a pixel that no CAM claims; its target is the background's text distribution."""


def background_score(cams: Tensor, power: float = 1.0) -> Tensor:
    r"""The background's score :math:`(1 - \max_k M_k)^{power}`, as in CLIP-ES.

    Args:
        cams: (..., K, h, w), values in [0, 1].
        power: above 0; CLIP-ES tries 1 and 2 on refined CAMs and up to 10 on raw ones.

    Returns:
        (..., 1, h, w), values in [0, 1], ready to be put before the classes.

    Raises:
        InputError: wrong rank, or a power that is not above 0.

    Example:
        >>> background_score(torch.tensor([[[0.2, 0.9]], [[0.4, 0.5]]]), power=2)
        tensor([[[0.3600, 0.0100]]])
    """
    check_cams(cams)
    check_positive("power", power)
    return (1 - cams.amax(dim=-3, keepdim=True)).clamp(min=0) ** power


def cams_to_labels(cams: Tensor, classes: Tensor | Sequence[int], power: float = 1.0) -> Tensor:
    """The best of the background and the classes at each pixel.

    Args:
        cams: (..., K, h, w), values in [0, 1].
        classes: (..., K) class indices of the maps; -1 marks a padded map, which never wins.
        power: of :func:`background_score`.

    Returns:
        (..., h, w) int64: 0 for background, c + 1 for class c.

    Raises:
        TypeError: classes that are no integers.
        InputError: wrong shapes, or a power that is not above 0.

    Example:
        >>> cams = torch.tensor([[[0.2, 0.9]], [[0.4, 0.5]]])
        >>> cams_to_labels(cams, [14, 3])
        tensor([[ 0, 15]])
    """
    check_cams(cams)
    classes = class_vector(classes, cams).to(cams.device)
    cams = cams.masked_fill((classes < 0)[..., None, None], 0.0)
    # max also gives the index, many times faster than argmax over an outer axis.
    score, best = cams.max(dim=-3)
    labels = (classes + 1).gather(-1, best.flatten(-2)).view(best.shape)
    return labels.masked_fill(background_score(cams, power).squeeze(-3) >= score, 0)


def resize_cams(cams: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly, pixel areas aligned (``cv2.INTER_LINEAR``).

    Args:
        cams: (..., K, h, w).
        size: (height, width), such as the photo's.

    Returns:
        (..., K, height, width), in the dtype of ``cams``.

    Raises:
        TypeError: not floating point.
        InputError: wrong rank, or a size that is not two whole numbers above 0.

    Example:
        >>> resize_cams(torch.tensor([[[0.0, 1.0]]]), (1, 4))
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    check_cams(cams)
    size = _check_size(size)
    maps = cams.reshape(-1, *cams.shape[-3:])
    resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return resized.view(*cams.shape[:-2], *size)


def seed_targets(
    cams: Tensor,
    classes: Tensor | Sequence[int],
    features: Tensor,
    prototypes: Prototypes,
    *,
    threshold: float = 0.4,
    tau_T: float = 0.01,
) -> Tensor:
    """The distributions m_i of Theorem 3 of the VPL paper, from CAMs of the text prototypes.

    A pixel whose best map exceeds the threshold Phi is one-hot at that class. Any other pixel gets
    the text distribution over the background prototypes alone (Eq. 5 restricted to them), so only
    classes present in the photo and the background are ever targets.

    Args:
        cams: (..., K, h, w), values in [0, 1], raw or refined.
        classes: (..., K) class indices of the maps, on the CPU; -1 marks a padded map.
        features: (..., h * w, D), unit rows.
        prototypes: text prototypes (N, D), unit rows.
        threshold: Phi, in [0, 1]; the paper's best is 0.4.
        tau_T: CLIP's temperature.

    Returns:
        (..., h * w, N), rows that sum to 1, in the dtype of ``features``.

    Raises:
        TypeError: not floating point, or classes that are no integers.
        InputError: shapes, widths or devices that do not fit, a class that does not exist, no
            background row, a threshold outside [0, 1], tau_T not above 0.

    Example:
        >>> cams = torch.tensor([[[0.9, 0.1]]])
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> text = Prototypes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), ("cat",))
        >>> seed_targets(cams, [0], features, text, tau_T=1.0)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.7311, 0.2689]])
    """
    check_cams(cams)
    classes = class_vector(classes, cams)
    check_prototypes(prototypes)
    check_class_values(classes, prototypes.num_foreground)
    check_fraction("threshold", threshold)
    check_positive("tau_T", tau_T)
    pixels = (*cams.shape[:-3], cams.shape[-2] * cams.shape[-1])
    if features.ndim != len(pixels) + 1 or features.shape[:-1] != pixels:
        raise InputError(
            f"features must have shape {(*pixels, 'D')}, one row per pixel of cams;"
            f" got {describe(features)}"
        )
    rows = features.flatten(0, -2)
    check_same_columns("features", rows, "prototypes", prototypes.rows)
    check_same_device("features", features, "prototypes", prototypes.rows)
    check_same_device("features", features, "cams", cams)

    seeds = seed_classes(cams, classes, threshold)
    return targets_from_seeds(seeds, features, prototypes, tau_T)


def seed_classes(cams: Tensor, classes: Tensor | Sequence[int], threshold: float = 0.4) -> Tensor:
    """The class whose CAM claims each pixel: the compact form of :func:`seed_targets`.

    Args:
        cams: (..., K, h, w), values in [0, 1], raw or refined.
        classes: (..., K) class indices of the maps; -1 marks a padded map.
        threshold: Phi, in [0, 1]; the best map must exceed it.

    Returns:
        (..., h * w) int64: a class index, or :data:`NO_SEED`.

    Raises:
        TypeError: not floating point, or classes that are no integers.
        InputError: shapes that do not fit, or a threshold outside [0, 1].

    Example:
        >>> seed_classes(torch.tensor([[[0.9, 0.1]]]), [7], threshold=0.4)
        tensor([ 7, -1])
    """
    check_cams(cams)
    check_fraction("threshold", threshold)
    classes = class_vector(classes, cams).to(cams.device, non_blocking=True)
    maps = cams.masked_fill((classes < 0)[..., None, None], 0.0).flatten(-2)
    score, best = maps.max(dim=-2)
    return classes.clamp(min=0).gather(-1, best).masked_fill(score <= threshold, NO_SEED)


def targets_from_seeds(
    seeds: Tensor, features: Tensor, prototypes: Prototypes, tau_T: float = 0.01
) -> Tensor:
    """The targets that seeds stand for: one-hot at a seed, elsewhere Eq. 5 over the background.

    Args:
        seeds: (..., p) int64, as :func:`seed_classes` gives them.
        features: (..., p, D), unit rows.
        prototypes: text prototypes (N, D), unit rows.
        tau_T: CLIP's temperature.

    Returns:
        (..., p, N), rows that sum to 1, in the dtype of ``features``.

    Example:
        >>> text = Prototypes(torch.eye(3), ("cat",))
        >>> targets_from_seeds(torch.tensor([0, -1]), torch.eye(3)[:2], text, tau_T=1.0)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.7311, 0.2689]])
    """
    background = text_distribution(features.flatten(0, -2), prototypes.background, tau_T)
    targets = F.pad(background, (prototypes.num_foreground, 0)).unflatten(0, seeds.shape)
    one_hot = torch.zeros_like(targets).scatter_(-1, seeds.clamp(min=0)[..., None], 1.0)
    return torch.where((seeds != NO_SEED)[..., None], one_hot, targets)


def _check_size(size: object, name: str = "size") -> tuple[int, int]:
    """A (height, width) of whole numbers above zero."""
    if (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, Integral) and int(side) >= 1 for side in size)
    ):
        return int(size[0]), int(size[1])
    raise InputError(
        f"{name} must be (height, width), two whole numbers of 1 or more; got {size!r}"
    )
