"""Checks of the core's inputs: each error names the argument, what it got and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor

# Rows of a smaller norm count as zero, and cannot be put on the unit sphere.
LEAST_NORM = 1e-12
# The square of a larger one, or of its inverse, is lost in float32.
LARGEST_NORM = 1e12


def describe(value: object) -> str:
    """What a value is, in the words an error message needs.

    >>> describe(torch.zeros(2, 3))
    'a float32 tensor of shape (2, 3) on cpu'
    >>> describe([1, 2])
    'a list'
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    return f"a {type(value).__name__}"


def check_matrix(name: str, value: object, *, min_rows: int = 1) -> Tensor:
    """A floating-point tensor of rank 2 with at least ``min_rows`` rows and one column."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of rank 2; got {describe(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {describe(value)}")
    if value.ndim != 2:
        raise ValueError(
            f"{name} must have rank 2, one row a vector; got rank {value.ndim}: {describe(value)}"
        )
    if value.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column; got {describe(value)}")
    if value.shape[0] < min_rows:
        what = "is empty" if value.shape[0] == 0 else f"has {value.shape[0]} row(s)"
        raise ValueError(f"{name} {what}; it takes at least {min_rows} row(s)")
    return value


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
        raise ValueError(f"{name} must be finite; row {row} holds NaN or infinity")
    # In float64, as the squares of a float32 row can overflow or vanish in float32.
    norms = torch.linalg.vector_norm(value, dim=1, dtype=torch.float64)
    outside = ((norms < LEAST_NORM) | (norms > LARGEST_NORM)).nonzero()
    if len(outside) == 0:
        return
    row = int(outside[0])
    norm = float(norms[row])
    if norm > LARGEST_NORM:
        raise ValueError(
            f"{name} must have rows of norm {LARGEST_NORM:g} at most; row {first_row + row} has the"
            f" norm {norm:.4g}: scale them, as only their directions count"
        )
    raise ValueError(
        f"{name} must have rows of non-zero norm, as they are put on the unit sphere;"
        f" row {first_row + row} {f'has the norm {norm:.4g}' if norm else 'is all zeros'}"
    )


def _norm_dtype(value: Tensor) -> torch.dtype:
    # The square of a finite float16 can overflow float16.
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def check_same_columns(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both matrices describe vectors of one space."""
    if value.shape[1] != other.shape[1]:
        raise ValueError(
            f"{name} and {other_name} must have the same number of columns D;"
            f" got D = {value.shape[1]} and D = {other.shape[1]}"
        )


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both tensors on one device: nothing is moved behind the caller's back."""
    if value.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device; got {value.device} and {other.device}"
        )


def check_positive(name: str, value: float) -> None:
    """A finite number above zero."""
    if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """A finite number of zero or more."""
    if not (isinstance(value, Real) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, 0 or more; got {value!r}")


def check_count(name: str, value: int) -> None:
    """A whole number of at least one."""
    if not (isinstance(value, Integral) and not isinstance(value, bool) and value >= 1):
        raise ValueError(f"{name} must be a whole number, 1 or more; got {value!r}")


def check_fraction(name: str, value: float) -> None:
    """A number in [0, 1]."""
    if not (isinstance(value, Real) and 0 <= value <= 1):
        raise ValueError(f"{name} must lie in [0, 1]; got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """One of the names that exist."""
    choices = list(choices)
    if value not in choices:
        exist = ", ".join(map(repr, choices))
        raise ValueError(f"unknown {name} {value!r}; these exist: {exist}")


def check_pixel_shapes(
    where: str,
    rows: int,
    classes: int,
    targets: Tensor | None,
    weights: Tensor | None,
    label_masks: Tensor | None,
) -> None:
    """What is given beside the features has one entry a pixel, of the right kind.

    ``where`` follows the argument's name in the message, such as " (chunk 3)".
    """
    if targets is not None:
        indices = isinstance(targets, Tensor) and targets.shape == (rows,) and is_integer(targets)
        probabilities = (
            isinstance(targets, Tensor)
            and targets.shape == (rows, classes)
            and targets.is_floating_point()
        )
        if not (indices or probabilities):
            raise ValueError(
                f"targets{where} must be integer class indices of shape ({rows},) or floating-point"
                f" probabilities of shape ({rows}, {classes}); got {describe(targets)}"
            )
    if weights is not None and not (
        isinstance(weights, Tensor) and weights.shape == (rows,) and weights.is_floating_point()
    ):
        raise ValueError(
            f"weights{where} must be floating point of shape ({rows},), one a pixel;"
            f" got {describe(weights)}"
        )
    if label_masks is None:
        return
    if targets is not None:
        raise ValueError(
            f"label_masks{where} restrict the text distribution of Eq. 5, which explicit targets"
            " replace: give one of the two"
        )
    if not (
        isinstance(label_masks, Tensor)
        and label_masks.dtype == torch.bool
        and label_masks.shape == (rows, classes)
    ):
        raise ValueError(
            f"label_masks{where} must be a bool tensor of shape ({rows}, {classes}), True where the"
            f" class is known to be present; got {describe(label_masks)}"
        )


def is_integer(value: Tensor) -> bool:
    """Whether a tensor holds whole numbers; bool is none."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def check_ignore_index(ignore_index: int, classes: int) -> None:
    """A whole number that is no class's index."""
    if not isinstance(ignore_index, Integral):
        raise ValueError(f"ignore_index must be a whole number; got {ignore_index!r}")
    if 0 <= ignore_index < classes:
        raise ValueError(
            f"ignore_index {ignore_index} is one of the {classes} classes;"
            " it takes an index that no class has"
        )


def check_weights(name: str, weights: Tensor) -> None:
    """Finite weights of zero or more."""
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative; the range is {_range(weights)}")


def check_label_masks(name: str, label_masks: Tensor, first_row: int = 0) -> None:
    """Every pixel is allowed at least one class."""
    allowed = label_masks.any(dim=1)
    if not bool(allowed.all()):
        row = first_row + int((~allowed).nonzero()[0])
        raise ValueError(f"{name} must allow each pixel at least one class; row {row} allows none")


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
            raise ValueError(
                f"{name} must hold probabilities, rows that are not negative and sum to 1;"
                f" row {first_row + row} has range {_range(targets[row])}"
                f" and sum {float(sums[row]):.4g}"
            )
        return
    # In a narrow dtype a comparison would wrap the number: uint8 232 == 1000 is true.
    targets = targets.long()
    known = ((targets >= 0) & (targets < classes)) | (targets == ignore_index)
    if not bool(known.all()):
        row = int((~known).nonzero()[0])
        raise ValueError(
            f"{name} must be class indices in [0, {classes - 1}] or the ignore_index"
            f" {ignore_index}; row {first_row + row} is {int(targets[row])}"
        )


def _range(value: Tensor) -> str:
    return f"[{float(value.min()):.4g}, {float(value.max()):.4g}]"
