"""The checks of what users give: each error names the argument, what it got and what it takes.

Public functions check at their door, before any work is done; what they call inside does not check
again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.errors import InputError, unknown

# Rows of a smaller norm count as zero, and cannot be put on the unit sphere.
LEAST_NORM = 1e-12
# The square of a larger one, or of its inverse, is lost in float32.
LARGEST_NORM = 1e12


def describe(value: object) -> str:
    """What a value is, in the words an error message needs.

    >>> describe(torch.zeros(2, 3))
    'a float32 tensor of shape (2, 3) on cpu'
    >>> describe(np.zeros((2, 3)))
    'a float64 array of shape (2, 3)'
    >>> describe([1, 2])
    'a list'
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return f"a {type(value).__name__}"


def is_integer(value: Tensor) -> bool:
    """Whether a tensor holds whole numbers; bool is none."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


# Numbers and names.


def check_finite(name: str, value: float) -> None:
    """A finite number of either sign."""
    if not (isinstance(value, Real) and math.isfinite(value)):
        raise InputError(f"{name} must be a finite number; got {value!r}")


def check_positive(name: str, value: float) -> None:
    """A finite number above zero."""
    if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a finite number above 0; got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """A finite number of zero or more."""
    if not (isinstance(value, Real) and math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite number, 0 or more; got {value!r}")


def check_count(name: str, value: int) -> None:
    """A whole number of at least one."""
    if not (isinstance(value, Integral) and not isinstance(value, bool) and value >= 1):
        raise InputError(f"{name} must be a whole number, 1 or more; got {value!r}")


def check_fraction(name: str, value: float) -> None:
    """A number in [0, 1]."""
    if not (isinstance(value, Real) and 0 <= value <= 1):
        raise InputError(f"{name} must lie in [0, 1]; got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """One of the names that exist."""
    choices = list(choices)
    if value not in choices:
        raise unknown(name, value, choices)


def check_ignore_index(ignore_index: int, classes: int) -> None:
    """A whole number that is no class's index."""
    if not isinstance(ignore_index, Integral):
        raise InputError(f"ignore_index must be a whole number; got {ignore_index!r}")
    if 0 <= ignore_index < classes:
        raise InputError(
            f"ignore_index {ignore_index} is one of the {classes} classes;"
            " it takes an index that no class has"
        )


# Matrices of features and prototypes.


def check_floating(name: str, value: object, what: str) -> Tensor:
    """A floating-point tensor; ``what`` it should be is said of anything that is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of {what}; got {describe(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {describe(value)}")
    return value


def check_matrix(name: str, value: object, *, min_rows: int = 1) -> Tensor:
    """A floating-point tensor of rank 2 with at least ``min_rows`` rows and one column."""
    tensor = check_floating(name, value, "rank 2")
    if tensor.ndim != 2:
        raise InputError(
            f"{name} must have rank 2, one row a vector; got rank {tensor.ndim}: {describe(tensor)}"
        )
    if tensor.shape[1] == 0:
        raise InputError(f"{name} must have at least one column; got {describe(tensor)}")
    if tensor.shape[0] < min_rows:
        what = "is empty" if tensor.shape[0] == 0 else f"has {tensor.shape[0]} row(s)"
        raise InputError(f"{name} {what}; it takes at least {min_rows} row(s)")
    return tensor


def check_rows(name: str, value: Tensor, first_row: int = 0) -> None:
    """Every row finite and of a norm that can be scaled to 1 (one host-device sync).

    ``first_row`` is the number of the first row where ``value`` is a part of a larger tensor.
    """
    norms = torch.linalg.vector_norm(value, dim=1, dtype=_norm_dtype(value))
    if bool(((norms >= LEAST_NORM) & (norms <= LARGEST_NORM)).all()):
        return
    finite = torch.isfinite(value).all(dim=1)
    if not bool(finite.all()):
        row = first_row + int((~finite).nonzero()[0])
        raise InputError(f"{name} must be finite; row {row} holds NaN or infinity")
    # In float64, as the squares of a float32 row can overflow or vanish in float32.
    norms = torch.linalg.vector_norm(value, dim=1, dtype=torch.float64)
    outside = ((norms < LEAST_NORM) | (norms > LARGEST_NORM)).nonzero()
    if len(outside) == 0:
        return
    row = int(outside[0])
    norm = float(norms[row])
    if norm > LARGEST_NORM:
        raise InputError(
            f"{name} must have rows of norm {LARGEST_NORM:g} at most; row {first_row + row} has the"
            f" norm {norm:.4g}: scale them, as only their directions count"
        )
    raise InputError(
        f"{name} must have rows of non-zero norm, as they are put on the unit sphere;"
        f" row {first_row + row} {f'has the norm {norm:.4g}' if norm else 'is all zeros'}"
    )


def _norm_dtype(value: Tensor) -> torch.dtype:
    # The square of a finite float16 can overflow float16.
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def check_same_columns(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both matrices describe vectors of one space."""
    if value.shape[1] != other.shape[1]:
        raise InputError(
            f"{name} and {other_name} must have the same number of columns D;"
            f" got D = {value.shape[1]} and D = {other.shape[1]}"
        )


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both tensors on one device: nothing is moved behind the caller's back."""
    if value.device != other.device:
        raise InputError(
            f"{name} and {other_name} must be on one device; got {value.device} and {other.device}"
        )


def check_features_and_prototypes(features: object, prototypes: object, chunk_size: int) -> None:
    """Two matrices of one space on one device, all rows finite and of non-zero norm.

    The features are read ``chunk_size`` rows at a time.
    """
    check_count("chunk_size", chunk_size)
    pixels = check_matrix("features", features)
    rows = check_matrix("prototypes", prototypes)
    check_same_columns("features", pixels, "prototypes", rows)
    check_same_device("features", pixels, "prototypes", rows)
    check_rows("prototypes", rows)
    for start in range(0, len(pixels), chunk_size):
        check_rows("features", pixels[start : start + chunk_size], start)


# Targets and labels of pixels.


def value_range(value: Tensor) -> str:
    """Least and largest value, for a message."""
    return f"[{float(value.min()):.4g}, {float(value.max()):.4g}]"


def check_targets(
    name: str, targets: Tensor, classes: int, ignore_index: int, first_row: int = 0
) -> None:
    """Class indices that exist, or rows of probabilities."""
    if targets.is_floating_point():
        sums = targets.sum(dim=1, dtype=_norm_dtype(targets))
        # float16 and bfloat16 rows of a few hundred classes sum to 1 only to a percent.
        proper = (targets >= 0).all(dim=1) & ((sums - 1).abs() < 0.02)
        if not bool(proper.all()):
            row = int((~proper).nonzero()[0])
            raise InputError(
                f"{name} must hold probabilities, rows that are not negative and sum to 1;"
                f" row {first_row + row} has range {value_range(targets[row])}"
                f" and sum {float(sums[row]):.4g}"
            )
        return
    # In a narrow dtype a comparison would wrap the number: uint8 232 == 1000 is true.
    targets = targets.long()
    known = ((targets >= 0) & (targets < classes)) | (targets == ignore_index)
    if not bool(known.all()):
        row = int((~known).nonzero()[0])
        raise InputError(
            f"{name} must be class indices in [0, {classes - 1}] or the ignore_index"
            f" {ignore_index}; row {first_row + row} is {int(targets[row])}"
        )


def check_assignments(
    assignments: object, features: Tensor, classes: int, ignore_index: int
) -> None:
    """One class index per pixel, or the ignore_index; at least one pixel counts."""
    if not isinstance(assignments, Tensor) or not is_integer(assignments):
        raise TypeError(f"assignments must be an integer torch.Tensor; got {describe(assignments)}")
    if assignments.shape != features.shape[:1]:
        raise InputError(
            f"assignments must have shape ({len(features)},), one class index per pixel;"
            f" got {describe(assignments)}"
        )
    check_ignore_index(ignore_index, classes)
    check_same_device("assignments", assignments, "features", features)
    check_targets("assignments", assignments, classes, ignore_index)
    if bool((assignments.long() == ignore_index).all()):
        raise InputError(f"assignments are all the ignore_index {ignore_index}: no pixel counts")


def counted_pixels(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Where a mask is not ignored, once label maps, masks and their labels fit together."""
    for name, labels in (("prediction", prediction), ("mask", mask)):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer labels; got {describe(labels)}")
    if prediction.shape != mask.shape:
        raise InputError(
            "prediction and mask must have one shape;"
            f" got {tuple(prediction.shape)} and {tuple(mask.shape)}"
        )
    counted = mask != ignore_index
    for name, labels in (("prediction", prediction), ("mask", mask)):
        wrong = ((labels < 0) | (labels >= num_classes)) & counted
        if bool(wrong.any()):
            raise InputError(
                f"{name} must hold labels in [0, {num_classes - 1}] wherever the mask is"
                f" not {ignore_index}; got {int(labels[wrong][0])}"
            )
    return counted


# Maps, CAMs and photos.


def check_maps(name: str, value: object, second_axis: str) -> Tensor:
    """A floating-point tensor of rank 4; ``second_axis`` is the letter of its second axis."""
    tensor = check_floating(name, value, "rank 4")
    if tensor.ndim != 4:
        raise InputError(
            f"{name} must have shape (B, {second_axis}, H, W);"
            f" got rank {tensor.ndim}: {describe(tensor)}"
        )
    return tensor


def check_embeddings_and_prototypes(embeddings: object, prototypes: object) -> None:
    """Maps (B, D, H, W) and rows (N, D) of one space on one device."""
    maps = check_maps("embeddings", embeddings, "D")
    rows = check_matrix("prototypes", prototypes)
    if maps.shape[1] != rows.shape[1]:
        raise InputError(
            "embeddings (B, D, H, W) and prototypes (N, D) must agree in D;"
            f" got D = {maps.shape[1]} and D = {rows.shape[1]}"
        )
    check_same_device("prototypes", rows, "embeddings", maps)


def check_labels(labels: object, batch: int, classes: int, like: Tensor) -> None:
    """Multi-hot labels, by shape, dtype and device alone: reading values would stall a GPU."""
    if not isinstance(labels, Tensor) or labels.is_complex():
        raise TypeError(
            f"labels must be a bool, integer or float torch.Tensor; got {describe(labels)}"
        )
    if labels.shape != (batch, classes):
        raise InputError(
            f"labels must be multi-hot of shape ({batch}, {classes}), one row per image and one"
            f" column per prototype; got {describe(labels)}"
        )
    check_same_device("labels", labels, "embeddings", like)


def check_cams(cams: object, name: str = "cams") -> Tensor:
    """A floating-point tensor (..., K, h, w) without an empty axis."""
    tensor = check_floating(name, cams, "shape (..., K, h, w)")
    if tensor.ndim < 3 or 0 in tensor.shape:
        raise InputError(
            f"{name} must have shape (..., K, h, w), one map for each of K >= 1 classes;"
            f" got {describe(tensor)}"
        )
    return tensor


def class_vector(classes: Tensor | Sequence[int], cams: Tensor) -> Tensor:
    """The classes as an int64 tensor with one entry for each map of ``cams``."""
    if not isinstance(classes, Tensor):
        classes = torch.as_tensor(classes)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise TypeError(f"classes must be integers; got {describe(classes)}")
    if classes.shape != cams.shape[:-2]:
        raise InputError(
            f"classes must have one entry per map, shape {tuple(cams.shape[:-2])} as in cams;"
            f" got {describe(classes)}"
        )
    return classes.long()


def check_class_values(classes: Tensor, num_foreground: int) -> None:
    """Class indices in [0, num_foreground), or -1 for padding (reads them on the host)."""
    known = (classes >= -1) & (classes < num_foreground)
    if not bool(known.all()):
        wrong = int(classes[~known][0])
        raise InputError(
            f"classes must be foreground indices in [0, {num_foreground - 1}], or -1 for padding;"
            f" got {wrong}"
        )


def check_photo(photo: object) -> np.ndarray:
    """An (H, W, 3) uint8 array."""
    return _check_bytes("photo", photo, (3,))


def check_mask(mask: object) -> np.ndarray:
    """An (H, W) uint8 array."""
    return _check_bytes("mask", mask, ())


def _check_bytes(name: str, value: object, channels: tuple[int, ...]) -> np.ndarray:
    shape = f"({', '.join(['H', 'W', *map(str, channels)])})"
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array of shape {shape}; got {describe(value)}")
    if value.ndim != 2 + len(channels) or value.shape[2:] != channels or 0 in value.shape:
        raise InputError(f"{name} must have shape {shape}; got {describe(value)}")
    return value


# Classes, texts and blocks of a CLIP model.


def check_names(argument: str, names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    """Each class as its synonyms, of which there is at least one, and none is blank."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a sequence of names, got the one string {names!r}")
    if len(names) == 0:
        raise InputError(f"{argument} must hold at least one class")
    synonyms = [(name,) if isinstance(name, str) else tuple(name) for name in names]
    for index, of_class in enumerate(synonyms):
        if not of_class:
            raise InputError(f"{argument}[{index}] has no synonym")
        for synonym in of_class:
            if not isinstance(synonym, str) or not synonym.strip():
                raise InputError(
                    f"{argument}[{index}] must be text that is not blank, got {synonym!r}"
                )
    return synonyms


def check_templates(templates: Sequence[str]) -> None:
    """At least one text, and each with a place for the name."""
    if isinstance(templates, str):
        raise TypeError(
            f"templates must be a sequence of texts, got the one string {templates!r}; a tuple "
            f"({templates!r},) holds one template"
        )
    if len(templates) == 0:
        raise InputError("templates must hold at least one text")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} where the class name goes")


def check_blocks(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Ascending indices of blocks, as counted from the first; negative ones count from the end."""
    for block in blocks:
        if not isinstance(block, int) or isinstance(block, bool):
            raise TypeError(f"blocks must be whole numbers, got {block!r}")
        if not -depth <= block < depth:
            raise InputError(
                f"blocks must lie in [{-depth}, {depth - 1}], as the model has {depth}; got {block}"
            )
    counted = tuple(block % depth for block in blocks)
    if not counted or any(here >= after for here, after in pairwise(counted)):
        raise InputError(f"blocks must name one or more in ascending order, got {tuple(blocks)}")
    return counted
