"""The classes present in each photo of a batch, as one padded tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpl_plugin.checks import check_class_values, describe
from vpl_plugin.errors import InputError

__all__ = ["pad_classes"]


def pad_classes(classes: Tensor | Sequence[Sequence[int]], num_foreground: int) -> Tensor:
    """Check the classes present in each photo and pad them with -1 to one length.

    Args:
        classes: a list of class indices for each photo, or a (B, K) integer tensor already padded
            with -1. Keep a tensor on the CPU: its values are read there.
        num_foreground: number of foreground classes; indices lie below it.

    Returns:
        (B, K) int64 on the CPU, K the largest number of classes in a photo.

    Raises:
        TypeError: not integers.
        InputError: no photo, a photo without a class, an index that does not exist or is given
            twice for one photo.

    Example:
        >>> pad_classes([[3], [0, 2]], num_foreground=4)
        tensor([[ 3, -1],
                [ 0,  2]])
    """
    if isinstance(classes, Tensor):
        if classes.is_floating_point() or classes.dtype == torch.bool:
            raise TypeError(f"classes must be integers; got {describe(classes)}")
        if classes.ndim != 2 or 0 in classes.shape:
            raise InputError(
                "classes must have shape (B, K), padded with -1, with B and K of 1 or more;"
                f" got {describe(classes)}"
            )
        padded = classes.long().cpu()
    else:
        padded = _stack(classes)
    check_class_values(padded, num_foreground)
    _check_photos(padded)
    return padded


def _stack(classes: Sequence[Sequence[int]]) -> Tensor:
    if len(classes) == 0:
        raise InputError("classes must list the classes of at least one photo; got no photo")
    if not all(isinstance(photo, Sequence) and not isinstance(photo, str) for photo in classes):
        raise TypeError(
            "classes must be a list of class indices for each photo, such as [[3], [0, 2]];"
            f" got {classes!r}"
        )
    longest = max(1, *(len(photo) for photo in classes))
    return torch.tensor([[*photo, *[-1] * (longest - len(photo))] for photo in classes]).long()


def _check_photos(padded: Tensor) -> None:
    for photo, row in enumerate(padded.tolist()):
        present = [index for index in row if index >= 0]
        if not present:
            raise InputError(
                f"classes must name a class per photo at least; photo {photo} has none"
            )
        if len(set(present)) < len(present):
            raise InputError(
                f"classes must name each class once a photo; photo {photo} has {present}"
            )
