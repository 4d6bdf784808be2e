"""Things chosen by name, each in a file of its own: here, or in a package of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from vpl_plugin.errors import InputError, unknown

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Collection[str], Generic[T]):
    """Entries of one kind by name, loaded when first asked for.

    A name is looked up in three places, in this order: what has been registered, the files of the
    package, and the entry points of installed packages. Listing the names loads nothing.

    Args:
        kind: what an entry is, for messages, such as "solver".
        package: the dotted name of a package with one file per entry, which bears the entry's
            name and registers it. Files whose names start with "_" are no entries.
        group: entry-point group under which installed packages offer entries.

    Example:
        >>> from vpl_plugin.core.solvers import SOLVERS
        >>> [*SOLVERS][:3]
        ['apgd', 'pgd', 'pgd_halving']
        >>> @SOLVERS.register("my_pgd")
        ... def my_pgd(problem, W, lr):
        ...     while True:
        ...         point = problem.at(W)
        ...         yield point
        ...         W = problem.constraint.project(W - lr * point.gradient)
        >>> SOLVERS["my_pgd"] is my_pgd
        True

        In the ``pyproject.toml`` of an installed package, instead of an import before the use::

            [project.entry-points."vpl_plugin.solvers"]
            my_pgd = "my_package.solvers:my_pgd"
    """

    def __init__(self, kind: str, *, package: str, group: str) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters what it decorates under a name.

        Args:
            name: the name; free, or the same module's, as in a notebook cell that is run again.

        Returns:
            The decorator, which returns what it is given.

        Raises:
            InputError: another module has the name.
        """

        def enter(entry: T) -> T:
            owner = f"{self._package}.{name}" if name in self._files() else entry.__module__
            if name in self._entries:
                owner = self._entries[name].__module__
            if owner == entry.__module__:
                self._entries[name] = entry
            elif _file_of(owner) != _file_of(entry.__module__):
                raise InputError(f"the {self.kind} {name!r} exists already, in {owner}")
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """The entry of a name.

        Raises:
            InputError: there is none; the message lists those that exist.
        """
        if name not in self._entries:
            if name in self._files():
                importlib.import_module(f"{self._package}.{name}")
            elif found := tuple(entry_points(group=self._group, name=name)):
                # Its module may have registered it meanwhile.
                self._entries.setdefault(name, found[0].load())
            else:
                raise unknown(self.kind, name, self)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """All names: the package's in the order of the alphabet, then the others."""
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def _names(self) -> list[str]:
        offered = sorted(point.name for point in entry_points(group=self._group))
        return list(dict.fromkeys([*self._files(), *self._entries, *offered]))

    def _files(self) -> list[str]:
        """The names of the package's files."""
        path = importlib.import_module(self._package).__path__
        names = (module.name for module in pkgutil.iter_modules(path))
        return sorted(name for name in names if not name.startswith("_"))


def _file_of(module: str) -> str:
    """Where a module lies, as a tool may import one file under two names; its name without one."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return os.path.realpath(spec.origin) if spec and spec.origin else module
