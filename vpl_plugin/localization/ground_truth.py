"""Ground-truth masks: read and checked, and refused where they show no class at all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX, read_mask

__all__ = ["check_shows_classes", "no_class_shown", "read_truth"]

# Labels that a message lists.
_SHOWN = 8


def read_truth(
    path: str | os.PathLike[str], num_foreground: int, size: tuple[int, int]
) -> np.ndarray:
    """The ground truth of a photo.

    Args:
        path: of the mask.
        num_foreground: F.
        size: (height, width) of the photo.

    Returns:
        (H, W) uint8: 0 background, 1 + n the class n, 255 not counted.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a readable mask, one of another size than the photo, or one with labels
            beyond F; the message names the file, what it holds and what was expected.
    """
    mask = read_mask(path)
    if mask.shape != size:
        raise InputError(
            f"{path} is of size {mask.shape}, its photo of {size} (height, width): a mask has the"
            " size of its photo"
        )
    held = _held(mask)
    wrong = [label for label in held if num_foreground < label != IGNORE_INDEX]
    if wrong:
        raise InputError(
            f"{path} has the label {wrong[0]}, which no class has: it holds {_listed(held)};"
            f" {_expected(num_foreground)}"
        )
    return mask


def check_shows_classes(masks: Iterable[str | os.PathLike[str]], num_foreground: int) -> None:
    """Refuse ground truth that shows no class: its mIoU would be the background's IoU alone.

    One mask with a class is enough, so no more masks are read than it takes to find one.

    Args:
        masks: files; those that are missing or broken are passed over, as scoring reports them.
        num_foreground: F.

    Raises:
        InputError: there are readable masks, and not one shows a class.
    """
    held = []
    for path in masks:
        try:
            labels = _held(read_mask(path))
        except (InputError, FileNotFoundError):
            continue
        if any(label not in (0, IGNORE_INDEX) for label in labels):
            return
        held.append(labels)
    if held:
        raise InputError(no_class_shown(held, num_foreground))


def no_class_shown(held: Sequence[Sequence[int]], num_foreground: int) -> str:
    """What is wrong with masks of which not one shows a class.

    Args:
        held: the labels in each mask.
        num_foreground: F.

    Example:
        >>> print(no_class_shown([[0, 255], [0, 255], [0]], num_foreground=1))
        not one of the 3 masks shows a class: they hold the labels 0 (in 3) and 255 (in 2);
        expected are 0 for the background, 1 for the class, and 255 for pixels that do not count
        (in masks of black and white, white is 255: make it 1)
    """
    counts = Counter(label for labels in held for label in labels)
    shown = [f"{label} (in {counts[label]})" for label in sorted(counts)]
    white = ""
    if counts[IGNORE_INDEX]:
        white = " (in masks of black and white, white is 255: make it 1)"
    return (
        f"not one of the {len(held)} masks shows a class: they hold the labels"
        f" {_joined(shown)}; {_expected(num_foreground)}{white}"
    )


def _held(mask: np.ndarray) -> list[int]:
    return np.bincount(mask.ravel(), minlength=256).nonzero()[0].tolist()


def _expected(num_foreground: int) -> str:
    classes = "1 for the class" if num_foreground == 1 else f"1 to {num_foreground} for the classes"
    return (
        f"expected are 0 for the background, {classes}, and {IGNORE_INDEX} for pixels that do not"
        " count"
    )


def _listed(labels: Sequence[int]) -> str:
    more = [f"{len(labels) - _SHOWN} more"] if len(labels) > _SHOWN else []
    return _joined([*map(str, labels[:_SHOWN]), *more])


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
