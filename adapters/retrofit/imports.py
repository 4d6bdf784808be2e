"""A checkout's own modules, and what stands in for modules that it imports in vain."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["PROVIDED", "check_origin", "import_from"]

# What libraries had when these methods were written and have no more, and why that is enough.
PROVIDED = {
    # setuptools: for ``packaging`` alone.
    "pkg_resources": "import packaging\nimport packaging.version\n",
    # NumPy 1: for a decorator that none of them puts to use.
    "numpy.lib.utils": "def deprecate(*args, **options):\n    return lambda function: function\n",
}


def import_from(checkout: Path, folder: Path, unused: Iterable[str] = ()) -> None:
    """Makes this process import from a checkout first, and write nothing there.

    Args:
        checkout: the checkout.
        folder: where stand-ins may lie as files, for processes that the checkout's code starts.
        unused: modules of which empty ones will do where they are not installed.
    """
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(checkout))
    for name, code in PROVIDED.items():
        try:
            importlib.import_module(name)
            if name == "pkg_resources":
                from pkg_resources import packaging  # noqa: F401
        except ImportError:
            sys.modules.pop(name, None)
            _provide(name, code, folder)
    for name in unused:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = _Empty(name)


def check_origin(checkout: Path, names: Iterable[str]) -> None:
    """Modules come from the checkout and from nowhere else.

    Raises:
        ImportError: one does not.
    """
    for name in names:
        importlib.import_module(name)
        origin = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if not origin.resolve().is_relative_to(checkout):
            raise ImportError(
                f"{name} must come from the checkout {checkout}; this process has it from"
                f" {origin}: run the retrofit in a process of its own"
            )


def _provide(name: str, code: str, folder: Path) -> None:
    shims = folder / "libraries_as_they_were"
    shims.mkdir(exist_ok=True)
    if "." in name:
        # A part of a package that is there: no file beside it is looked for.
        module = ModuleType(name)
        exec(code, module.__dict__)
        sys.modules[name] = module
    else:
        (shims / f"{name}.py").write_text(code)
        if str(shims) not in sys.path:
            sys.path.insert(1, str(shims))


class _Empty(ModuleType):
    """Has whatever is asked of it, to import; none of it works."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*_: Any, **__: Any) -> None:
            raise ImportError(f"{self.__name__}.{name} is needed after all: install it")

        return type(name, (), {"__new__": fail})
