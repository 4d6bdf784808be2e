"""Every check of the localisation floor's inputs, made before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.core.checks import check_matrix, describe


def check_cams(cams: object, name: str = "cams") -> Tensor:
    """A floating-point tensor (..., K, h, w) without an empty axis."""
    if not isinstance(cams, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (..., K, h, w); got {_kind(cams)}")
    if not cams.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {describe(cams)}")
    if cams.ndim < 3 or 0 in cams.shape:
        raise ValueError(
            f"{name} must have shape (..., K, h, w), one map for each of K >= 1 classes;"
            f" got {describe(cams)}"
        )
    return cams


def check_prototypes(prototypes: object, num_foreground: int) -> Tensor:
    """An (N, D) matrix whose rows are num_foreground classes, then at least one background row."""
    matrix = check_matrix("prototypes", prototypes, min_rows=2)
    if not isinstance(num_foreground, int) or not 1 <= num_foreground < matrix.shape[0]:
        raise ValueError(
            "num_foreground must leave at least one foreground and one background row of the"
            f" {matrix.shape[0]} prototypes: a whole number in [1, {matrix.shape[0] - 1}];"
            f" got {num_foreground!r}"
        )
    return matrix


def check_class_values(classes: Tensor, num_foreground: int) -> None:
    """Class indices in [0, num_foreground), or -1 for padding (reads them on the host)."""
    known = (classes >= -1) & (classes < num_foreground)
    if not bool(known.all()):
        wrong = int(classes[~known][0])
        raise ValueError(
            f"classes must be foreground indices in [0, {num_foreground - 1}], or -1 for padding;"
            f" got {wrong}"
        )


def class_vector(classes: Tensor | Sequence[int], cams: Tensor) -> Tensor:
    """The classes as an int64 tensor with one entry for each map of ``cams``."""
    if not isinstance(classes, Tensor):
        classes = torch.as_tensor(classes)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise TypeError(f"classes must be integers; got {describe(classes)}")
    if classes.shape != cams.shape[:-2]:
        raise ValueError(
            f"classes must have one entry a map, shape {tuple(cams.shape[:-2])} as in cams;"
            f" got {describe(classes)}"
        )
    return classes.long()


def check_size(size: object, name: str = "size") -> tuple[int, int]:
    """A (height, width) of whole numbers above zero."""
    if (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, (int, np.integer)) and side >= 1 for side in size)
    ):
        return int(size[0]), int(size[1])
    raise ValueError(
        f"{name} must be (height, width), two whole numbers of 1 or more; got {size!r}"
    )


def check_photo(photo: object) -> np.ndarray:
    """An (H, W, 3) uint8 array."""
    if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8:
        raise TypeError(f"photo must be a uint8 array of shape (H, W, 3); got {_kind(photo)}")
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"photo must have shape (H, W, 3); got {_kind(photo)}")
    return photo


def check_mask(mask: object, name: str = "mask") -> np.ndarray:
    """An (H, W) uint8 array."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array of shape (H, W); got {_kind(mask)}")
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"{name} must have shape (H, W); got {_kind(mask)}")
    return mask


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return describe(value)


def counted_pixels(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Where a mask is not ignored, once label maps, masks and their labels fit together."""
    for name, labels in (("prediction", prediction), ("mask", mask)):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer labels; got {describe(labels)}")
    if prediction.shape != mask.shape:
        raise ValueError(
            "prediction and mask must have one shape;"
            f" got {tuple(prediction.shape)} and {tuple(mask.shape)}"
        )
    counted = mask != ignore_index
    for name, labels in (("prediction", prediction), ("mask", mask)):
        wrong = ((labels < 0) | (labels >= num_classes)) & counted
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must hold labels in [0, {num_classes - 1}] wherever the mask is"
                f" not {ignore_index}; got {int(labels[wrong][0])}"
            )
    return counted
