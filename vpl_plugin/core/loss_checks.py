"""Checks of what the losses and diagnostics take beside matrices: maps, labels, assignments."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from vpl_plugin.core.checks import (
    check_ignore_index,
    check_matrix,
    check_positive,
    check_rows,
    check_same_columns,
    check_same_device,
    check_targets,
    describe,
    is_integer,
)


def check_maps(name: str, value: object, second_axis: str) -> Tensor:
    """A floating-point tensor of rank 4; ``second_axis`` is the letter of its second axis."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of rank 4; got {describe(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {describe(value)}")
    if value.ndim != 4:
        raise ValueError(
            f"{name} must have shape (B, {second_axis}, H, W);"
            f" got rank {value.ndim}: {describe(value)}"
        )
    return value


def check_embeddings_and_prototypes(embeddings: object, prototypes: object) -> None:
    """Maps (B, D, H, W) and rows (N, D) of one space on one device."""
    maps = check_maps("embeddings", embeddings, "D")
    rows = check_matrix("prototypes", prototypes)
    if maps.shape[1] != rows.shape[1]:
        raise ValueError(
            "embeddings (B, D, H, W) and prototypes (N, D) must agree in D;"
            f" got D = {maps.shape[1]} and D = {rows.shape[1]}"
        )
    check_same_device("prototypes", rows, "embeddings", maps)


def check_masks(masks: object, embeddings: Tensor) -> None:
    """Real masks (B, N, H, W) over the positions of the embeddings."""
    if not isinstance(masks, Tensor) or masks.is_complex():
        raise TypeError(f"masks must be a real torch.Tensor (B, N, H, W); got {describe(masks)}")
    batch, _, height, width = embeddings.shape
    if masks.ndim != 4 or (masks.shape[0], *masks.shape[2:]) != (batch, height, width):
        raise ValueError(
            f"masks must have shape ({batch}, N, {height}, {width}) to fit the embeddings;"
            f" got {describe(masks)}"
        )
    check_same_device("masks", masks, "embeddings", embeddings)


def check_labels(labels: object, batch: int, classes: int, like: Tensor) -> None:
    """Multi-hot labels, by shape, dtype and device alone: reading values would stall a GPU."""
    if not isinstance(labels, Tensor) or labels.is_complex():
        raise TypeError(
            f"labels must be a bool, integer or float torch.Tensor; got {describe(labels)}"
        )
    if labels.shape != (batch, classes):
        raise ValueError(
            f"labels must be multi-hot of shape ({batch}, {classes}), one row an image and one"
            f" column a prototype; got {describe(labels)}"
        )
    check_same_device("labels", labels, "embeddings", like)


def check_pseudo_masks(pseudo_masks: object, logits: Tensor, ignore_index: int) -> None:
    """Class indices (B, H, W) at the logits' resolution, and an ignore_index that is no class."""
    if not isinstance(pseudo_masks, Tensor) or not is_integer(pseudo_masks):
        raise TypeError(
            f"pseudo_masks must be an integer torch.Tensor; got {describe(pseudo_masks)}"
        )
    batch, classes, height, width = logits.shape
    if pseudo_masks.shape != (batch, height, width):
        raise ValueError(
            f"pseudo_masks must have shape ({batch}, {height}, {width}), that of the logits"
            f" (resize the logits first); got {describe(pseudo_masks)}"
        )
    check_ignore_index(ignore_index, classes)
    check_same_device("pseudo_masks", pseudo_masks, "logits", logits)


def check_features_and_prototypes(features: object, prototypes: object, chunk_size: int) -> None:
    """Two matrices of one space on one device, all rows finite and of non-zero norm."""
    pixels = check_matrix("features", features)
    rows = check_matrix("prototypes", prototypes)
    check_same_columns("features", pixels, "prototypes", rows)
    check_same_device("features", pixels, "prototypes", rows)
    check_rows("prototypes", rows)
    for start in range(0, len(pixels), chunk_size):
        check_rows("features", pixels[start : start + chunk_size], start)


def check_assignments(
    assignments: object, features: Tensor, classes: int, ignore_index: int
) -> None:
    """One class index a pixel, or the ignore_index; at least one pixel counts."""
    if not isinstance(assignments, Tensor) or not is_integer(assignments):
        raise TypeError(f"assignments must be an integer torch.Tensor; got {describe(assignments)}")
    if assignments.shape != features.shape[:1]:
        raise ValueError(
            f"assignments must have shape ({len(features)},), one class index a pixel;"
            f" got {describe(assignments)}"
        )
    check_ignore_index(ignore_index, classes)
    check_same_device("assignments", assignments, "features", features)
    check_targets("assignments", assignments, classes, ignore_index)
    if bool((assignments.long() == ignore_index).all()):
        raise ValueError(f"assignments are all the ignore_index {ignore_index}: no pixel counts")


def check_finite(name: str, value: float) -> None:
    """A finite number of either sign."""
    if not (isinstance(value, Real) and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number; got {value!r}")


def check_epsilon(epsilon: object) -> None:
    """Shares (N,) of Eq. 4, in [0, 1]."""
    if not isinstance(epsilon, Tensor) or not epsilon.is_floating_point():
        raise TypeError(f"epsilon must be a floating-point torch.Tensor; got {describe(epsilon)}")
    if epsilon.ndim != 1 or len(epsilon) == 0:
        raise ValueError(
            f"epsilon must have shape (N,), one share a prototype, N >= 1; got {describe(epsilon)}"
        )
    if not bool(((epsilon >= 0) & (epsilon <= 1)).all()):
        low, high = float(epsilon.min()), float(epsilon.max())
        raise ValueError(f"epsilon must lie in [0, 1]; the range is [{low:.4g}, {high:.4g}]")


def check_eta(eta: float, prototypes: Tensor) -> None:
    """A bound of the prototypes' norms, up to the rounding of unit rows."""
    check_positive("eta", eta)
    largest = float(torch.linalg.vector_norm(prototypes, dim=1, dtype=torch.float64).max())
    if largest > eta * (1 + torch.finfo(prototypes.dtype).eps * prototypes.shape[1]):
        raise ValueError(
            f"eta must bound the prototypes' norms, the largest of which is {largest:.4g};"
            f" got {eta!r}"
        )
