"""What the functions of this package ask of their arguments, each with its own message."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "UnsupportedModelError",
    "check_blocks",
    "check_names",
    "check_pixels",
    "check_templates",
    "check_texts",
]


class UnsupportedModelError(TypeError, ValueError):
    """The model is none whose vision tower is a plain vision transformer.

    A TypeError for who passes an object, a ValueError for who passes a name.
    """


def check_pixels(pixels: Tensor, patch_size: int, device: torch.device) -> None:
    """A batch of normalised photos whose sides are multiples of the patch size."""
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        got = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__qualname__
        raise TypeError(f"pixels must be a floating-point tensor (B, 3, H, W), got {got}")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be of shape (B, 3, H, W), got {tuple(pixels.shape)}")
    height, width = pixels.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"pixels are {height} x {width} (height x width), and each side must be a multiple of "
            f"the patch size {patch_size}; preprocess(photo, patch_size={patch_size}) resizes so"
        )
    if pixels.device != device:
        raise ValueError(f"pixels are on {pixels.device} and the model is on {device}")


def check_texts(texts: Sequence[str]) -> None:
    """At least one text, and texts only."""
    if isinstance(texts, str):
        raise TypeError(f"texts must be a sequence of strings, got the one string {texts!r}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must hold strings, got {text!r}")
    if len(texts) == 0:
        raise ValueError("texts must not be empty")


def check_blocks(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Ascending indices of blocks, as counted from the first; negative ones count from the end."""
    for block in blocks:
        if not isinstance(block, int) or isinstance(block, bool):
            raise TypeError(f"blocks must be whole numbers, got {block!r}")
        if not -depth <= block < depth:
            raise ValueError(
                f"blocks must lie in [{-depth}, {depth - 1}], as the model has {depth}; got {block}"
            )
    counted = tuple(block % depth for block in blocks)
    if not counted or any(here >= after for here, after in pairwise(counted)):
        raise ValueError(f"blocks must name one or more in ascending order, got {tuple(blocks)}")
    return counted


def check_names(argument: str, names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    """Each class as its synonyms, of which there is at least one, and none is blank."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a sequence of names, got the one string {names!r}")
    if len(names) == 0:
        raise ValueError(f"{argument} must hold at least one class")
    synonyms = [(name,) if isinstance(name, str) else tuple(name) for name in names]
    for index, of_class in enumerate(synonyms):
        if not of_class:
            raise ValueError(f"{argument}[{index}] has no synonym")
        for synonym in of_class:
            if not isinstance(synonym, str) or not synonym.strip():
                raise ValueError(
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
        raise ValueError("templates must hold at least one text")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} where the class name goes")
