"""Vision prototypes in the place of the text features that a model keeps as attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from vpl_plugin.checks import describe
from vpl_plugin.errors import InputError

__all__ = ["swap_prototypes"]

Holder = TypeVar("Holder")


@contextmanager
def swap_prototypes(
    holder: Holder,
    *,
    foreground: Tensor,
    background: Tensor | None = None,
    names: tuple[str, str] = ("fg_text_features", "bg_text_features"),
) -> Iterator[Holder]:
    """Puts vision prototypes where a model keeps its text features, for as long as the block runs.

    Any object with such attributes will do: WeCLIP's model keeps plain tensors, others keep
    buffers or parameters. A parameter keeps its identity (an optimiser goes on seeing it); its
    values are swapped.

    Args:
        holder: the object.
        foreground: (N, D), of the shape of its attribute; cast to that one's dtype and device.
        background: (M, D); None leaves the background's attribute alone.
        names: of the attributes for foreground and background.

    Yields:
        ``holder``. Its own features are back after the block, also where the block raises.

    Raises:
        AttributeError: the object has no such attribute.
        TypeError: the attribute, or what is to replace it, is no tensor.
        ValueError: the shapes differ.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(fg_text_features=torch.zeros(2, 3))
        >>> with swap_prototypes(model, foreground=torch.ones(2, 3)):
        ...     model.fg_text_features.sum()
        tensor(6.)
        >>> model.fg_text_features.sum()
        tensor(0.)
    """
    given = {names[0]: ("foreground", foreground)}
    if background is not None:
        given[names[1]] = ("background", background)
    for attribute, (name, value) in given.items():
        _check(holder, attribute, name, value)
    with ExitStack() as stack:
        for attribute, (_, value) in given.items():
            stack.enter_context(_swapped(holder, attribute, value))
        yield holder


@contextmanager
def _swapped(holder: object, attribute: str, value: Tensor) -> Iterator[None]:
    kept = getattr(holder, attribute)
    # A copy, so that an in-place step within the block cannot reach the caller's tensor.
    new = value.detach().to(kept, copy=True)
    if isinstance(kept, torch.nn.Parameter):
        data = kept.data
        kept.data = new
        try:
            yield
        finally:
            kept.data = data
    else:
        setattr(holder, attribute, new)
        try:
            yield
        finally:
            setattr(holder, attribute, kept)


def _check(holder: object, attribute: str, name: str, value: object) -> None:
    if not hasattr(holder, attribute):
        raise AttributeError(
            f"holder, a {type(holder).__name__}, has no attribute {attribute!r}: say in names"
            " where it keeps its text features"
        )
    kept = getattr(holder, attribute)
    if not isinstance(kept, Tensor):
        raise TypeError(f"{attribute} of holder must be a tensor; got {describe(kept)}")
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor; got {describe(value)}")
    if value.shape != kept.shape:
        raise InputError(
            f"{name} must have the shape {tuple(kept.shape)} of holder's {attribute};"
            f" got {describe(value)}"
        )
