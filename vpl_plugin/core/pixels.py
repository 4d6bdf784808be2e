"""Pixel features as the solvers see them: chunks of bounded size, from memory or from a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.checks import (
    check_matrix,
    check_rows,
    check_same_columns,
    check_same_device,
    check_targets,
    describe,
    is_integer,
    value_range,
)
from vpl_plugin.errors import InputError

__all__ = ["PixelChunk", "Pixels"]

# Weights this many powers of two from 1 are brought back to it: sums of products with them would
# leave the range of float32. Only their ratios count.
MODERATE_EXPONENT = 32


class PixelChunk(NamedTuple):
    """Some pixels of a stream, with what is known of them.

    Attributes:
        features: (p, D); rows need not be unit.
        targets: None (Eq. 5), class indices (p,), or probabilities (p, N).
        weights: (p,), not negative, or None for 1 each.
        label_masks: (p, N) bool, the classes each pixel's photo is known to hold, or None.
    """

    features: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None
    label_masks: Tensor | None = None


class Pixels:
    """A re-iterable of :class:`PixelChunk` of at most ``chunk_size`` rows.

    ``source`` is one :class:`PixelChunk` that lies in memory, or an iterable of chunks (a bare
    tensor stands for its features). A re-iterable, such as a list or an object whose ``__iter__``
    starts anew, is read once a pass and never held; a one-shot iterator, such as a generator, is
    read once and kept, since every solver needs many passes.
    """

    def __init__(self, source: PixelChunk | Iterable[PixelChunk | Tensor], chunk_size: int) -> None:
        self.in_memory = isinstance(source, PixelChunk)
        if isinstance(source, PixelChunk):
            self._source: Iterable[PixelChunk | Tensor] = [source]
        else:
            self._source = list(source) if isinstance(source, Iterator) else source
        self.chunk_size = chunk_size
        self._weight_exponent = 0

    def __iter__(self) -> Iterator[PixelChunk]:
        for chunk in self._items():
            for start in range(0, len(chunk.features), self.chunk_size):
                yield self._slice(chunk, start)

    def _items(self) -> Iterator[PixelChunk]:
        for item in self._source:
            yield item if isinstance(item, PixelChunk) else PixelChunk(item)

    def _slice(self, chunk: PixelChunk, start: int) -> PixelChunk:
        def rows(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[start : start + self.chunk_size]

        features = chunk.features[start : start + self.chunk_size]
        weights = rows(chunk.weights)
        if weights is not None and self._weight_exponent:
            weights = weights.double() * 2.0**-self._weight_exponent
        return PixelChunk(features, rows(chunk.targets), weights, rows(chunk.label_masks))

    def check(
        self,
        text_prototypes: Tensor,
        ignore_index: int,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Reads everything once and raises for the first chunk that does not fit.

        Weights far from 1 are then divided by a power of two, the same on all ranks.

        Args:
            text_prototypes: (N, D), what the pixels have to go with.
            ignore_index: the class index of pixels that do not count.
            reduce: maps a tensor to its sum over all ranks, where there are several.

        Raises:
            TypeError: a chunk is not a tensor or a :class:`PixelChunk`.
            InputError: shapes, devices, values or targets do not fit; the message says which.
        """
        number = -1
        largest = torch.zeros((), dtype=torch.float64, device=text_prototypes.device)
        for number, chunk in enumerate(self._items()):
            where = "" if self.in_memory else f" (chunk {number})"
            if not isinstance(chunk.features, Tensor):
                raise TypeError(
                    "features must be a (P, D) tensor, or an iterable of (p, D) tensors or"
                    f" PixelChunks; got {describe(chunk.features)}{where}"
                )
            _check_shapes(chunk, where, text_prototypes)
            for start in range(0, len(chunk.features), self.chunk_size):
                part = self._slice(chunk, start)
                check_rows(f"features{where}", part.features, start)
                if part.targets is not None:
                    classes = len(text_prototypes)
                    check_targets(f"targets{where}", part.targets, classes, ignore_index, start)
                if part.weights is not None:
                    _check_weights(f"weights{where}", part.weights)
                    largest = torch.maximum(largest, _largest_weight(part, ignore_index))
                else:
                    largest = largest.clamp_min(1)
                if part.label_masks is not None:
                    _check_label_masks(f"label_masks{where}", part.label_masks, start)
        if number < 0:
            raise InputError("features is empty: the iterable yields no chunk")
        exponent = math.frexp(float(largest if reduce is None else reduce(largest)))[1]
        self._weight_exponent = exponent if abs(exponent) > MODERATE_EXPONENT else 0


def _largest_weight(chunk: PixelChunk, ignore_index: int) -> Tensor:
    """The largest weight of the pixels that count, 0-d float64."""
    assert chunk.weights is not None
    weights = chunk.weights.double()
    if chunk.targets is not None and not chunk.targets.is_floating_point():
        weights = weights * (chunk.targets.long() != ignore_index)
    return weights.amax()


def _check_shapes(chunk: PixelChunk, where: str, text_prototypes: Tensor) -> None:
    """One entry per pixel in all that comes with the features, of the right kind and device.

    ``where`` follows the argument's name in the message, such as " (chunk 3)".
    """
    features, targets, weights, label_masks = chunk
    check_matrix(f"features{where}", features)
    check_same_columns(f"features{where}", features, "text_protos", text_prototypes)
    rows, classes = len(features), len(text_prototypes)
    if targets is not None and not (
        isinstance(targets, Tensor)
        and (
            (targets.shape == (rows,) and is_integer(targets))
            or (targets.shape == (rows, classes) and targets.is_floating_point())
        )
    ):
        raise InputError(
            f"targets{where} must be integer class indices of shape ({rows},) or floating-point"
            f" probabilities of shape ({rows}, {classes}); got {describe(targets)}"
        )
    if weights is not None and not (
        isinstance(weights, Tensor) and weights.shape == (rows,) and weights.is_floating_point()
    ):
        raise InputError(
            f"weights{where} must be floating point of shape ({rows},), one per pixel;"
            f" got {describe(weights)}"
        )
    if label_masks is not None and targets is not None:
        raise InputError(
            f"label_masks{where} restrict the text distribution of Eq. 5, which explicit targets"
            " replace: give one of the two"
        )
    if label_masks is not None and not (
        isinstance(label_masks, Tensor)
        and label_masks.dtype == torch.bool
        and label_masks.shape == (rows, classes)
    ):
        raise InputError(
            f"label_masks{where} must be a bool tensor of shape ({rows}, {classes}), True where the"
            f" class is known to be present; got {describe(label_masks)}"
        )
    for part, value in zip(PixelChunk._fields, chunk, strict=True):
        if value is not None:
            check_same_device(f"{part}{where}", value, "text_protos", text_prototypes)


def _check_weights(name: str, weights: Tensor) -> None:
    """Finite weights of zero or more."""
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise InputError(
            f"{name} must be finite and not negative; the range is {value_range(weights)}"
        )


def _check_label_masks(name: str, label_masks: Tensor, first_row: int = 0) -> None:
    """Every pixel is allowed at least one class."""
    allowed = label_masks.any(dim=1)
    if not bool(allowed.all()):
        row = first_row + int((~allowed).nonzero()[0])
        raise InputError(f"{name} must allow each pixel at least one class; row {row} allows none")
