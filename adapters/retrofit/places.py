"""Places in a method's code: where its text prototypes come to be, and where it takes its softmax.

A function is named as it is looked up: ``"module:name"`` or ``"module:Class.name"``. What a module
has imported by name goes by that module's own. What a script defines in itself has no place: it is
made anew when the script runs.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor

from vpl_plugin.errors import InputError

__all__ = ["Attributes", "Place", "Returned", "Scale", "Variable", "at_temperature", "replaced"]

Exchange = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Place(Protocol):
    """Where tensors come to be."""

    def exchanged(self, exchange: Exchange) -> AbstractContextManager[None]:
        """Within the block the tensors are what ``exchange`` makes of them."""
        ...


@dataclass(frozen=True)
class Attributes:
    """What an object of a class keeps as attributes once it is made.

    Attributes:
        owner: the class.
        names: of its attributes: tensors, buffers or parameters.
    """

    owner: str
    names: tuple[str, ...]

    @contextmanager
    def exchanged(self, exchange: Exchange) -> Iterator[None]:
        """Exchanges them as soon as an object has been made."""

        def around(make: Callable[..., None]) -> Callable[..., None]:
            @functools.wraps(make)
            def made(holder: Any, *args: Any, **options: Any) -> None:
                make(holder, *args, **options)
                found = tuple(getattr(holder, name) for name in self.names)
                for name, kept, new in zip(self.names, found, exchange(found), strict=True):
                    if isinstance(kept, torch.nn.Parameter):
                        kept.data = new
                    else:
                        setattr(holder, name, new)

            return made

        with replaced(f"{self.owner}.__init__", around):
            yield


@dataclass(frozen=True)
class Returned:
    """What a function returns, such as one that loads a file.

    Attributes:
        function: its place.
        item: which item of what it returns; None is all of it.
    """

    function: str
    item: int | None = None

    @contextmanager
    def exchanged(self, exchange: Exchange) -> Iterator[None]:
        """Exchanges it at every call."""

        def change(result: Any) -> Any:
            if self.item is None:
                return exchange((result,))[0]
            items = list(result)
            (items[self.item],) = exchange((items[self.item],))
            return type(result)(items)

        with self.passed_through(change):
            yield

    @contextmanager
    def passed_through(self, change: Callable[[Any], Any]) -> Iterator[None]:
        """Within the block the function returns what ``change`` makes of its results."""

        def around(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def returned(*args: Any, **options: Any) -> Any:
                return change(function(*args, **options))

            return returned

        with replaced(self.function, around):
            yield


@dataclass(frozen=True)
class Variable:
    """What a module holds once it is imported.

    Attributes:
        name: its place.
    """

    name: str

    @contextmanager
    def exchanged(self, exchange: Exchange) -> Iterator[None]:
        """Exchanges it before the script runs."""
        with replaced(self.name, lambda held: exchange((held,))[0]):
            yield


@dataclass(frozen=True)
class Scale:
    """Where a softmax over the classes takes its temperature from.

    Attributes:
        method: of a class, within which the softmax is taken.
        attribute: of its object: a number, 1 / temperature; or a tensor, the logarithm of that, as
            CLIP's ``logit_scale`` is.
    """

    method: str
    attribute: str = "logit_scale"

    @contextmanager
    def at(self, temperature: float) -> Iterator[None]:
        """Within the block the method runs at another temperature."""

        def around(method: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(method)
            def tempered(holder: Any, *args: Any, **options: Any) -> Any:
                with at_temperature(holder, self.attribute, temperature):
                    return method(holder, *args, **options)

            return tempered

        with replaced(self.method, around):
            yield


@contextmanager
def at_temperature(holder: Any, attribute: str, temperature: float) -> Iterator[None]:
    """Within the block an object's softmax has another temperature; see :class:`Scale`.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(logit_scale=torch.tensor(100.0).log())
        >>> with at_temperature(model, "logit_scale", 0.05):
        ...     print(f"{model.logit_scale.exp():.1f}")
        20.0
        >>> f"{model.logit_scale.exp():.1f}"
        '100.0'
    """
    kept = getattr(holder, attribute)
    if not isinstance(kept, Tensor):
        with mock.patch.object(holder, attribute, 1 / temperature):
            yield
        return
    before = kept.detach().clone()
    with torch.no_grad():
        kept.fill_(math.log(1 / temperature))
    try:
        yield
    finally:
        with torch.no_grad():
            kept.copy_(before)


@contextmanager
def replaced(place: str, around: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block a place holds what ``around`` makes of what it held.

    Raises:
        InputError: there is no such place.
    """
    module, _, path = place.partition(":")
    *above, name = path.split(".")
    try:
        owner = functools.reduce(getattr, above, importlib.import_module(module))
        held = getattr(owner, name)
    except AttributeError as error:
        raise InputError(f"the checkout is of an unknown shape: there is no {place}") from error
    with mock.patch.object(owner, name, around(held)):
        yield
