"""A checkout of a method's code: is it the one that a recipe knows, and is all of it installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vpl_plugin.adapters.retrofit.imports import PROVIDED
from vpl_plugin.adapters.retrofit.recipe import Recipe
from vpl_plugin.errors import InputError

__all__ = ["check_checkout", "check_packages", "commit_of"]

# What the extra "upstream" installs.
_EXTRA = frozenset({"lxml"})
# Where a package goes by another name than its module.
_PACKAGES = {
    "cv2": "opencv-python",
    "mmcv": "mmcv-lite",
    "mmseg": "mmsegmentation",
    "pydensecrf": "pydensecrf2",
    "sklearn": "scikit-learn",
}


def commit_of(root: Path) -> str | None:
    """The commit that a checkout is at; None where Git does not say."""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def check_checkout(checkout: str | os.PathLike[str], recipe: Recipe) -> Path:
    """Reads, without running anything, whether a folder is a checkout of the shape known.

    Args:
        checkout: the folder.
        recipe: of the method.

    Returns:
        The folder's absolute path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: files are missing, or they are not of the shape known.
    """
    root = Path(checkout).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    missing = [name for name in recipe.shape if not (root / name).is_file()]
    if missing:
        method = recipe.title.partition(",")[0]
        raise InputError(f"{root} is not a checkout of {method}: it lacks {', '.join(missing)}")
    for name, expected in recipe.shape.items():
        if expected:
            _check_shape(root / name, expected)
    return root


def _check_shape(path: Path, expected: Mapping[str, tuple[str, ...] | None]) -> None:
    try:
        found = dict(_functions(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not readable Python: {error}") from error
    lacking = [name for name in expected if name not in found]
    if lacking:
        raise InputError(f"{path} is of an unknown shape: it does not define {', '.join(lacking)}")
    for name, arguments in expected.items():
        if arguments is not None and found[name] != arguments:
            raise InputError(
                f"{path} is of an unknown shape: its {name} takes ({', '.join(found[name])}),"
                f" where ({', '.join(arguments)}) is expected"
            )


def _functions(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Functions and methods, with their arguments."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, tuple(argument.arg for argument in node.args.args)
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{name}", found) for name, found in _functions(node))


def check_packages(root: Path, recipe: Recipe) -> None:
    """Whether the packages that the checkout's code imports are installed; runs nothing of it.

    Args:
        root: as :func:`check_checkout` gives it.
        recipe: of the method.

    Raises:
        ImportError: some are not; the message says what to install.
    """
    missing: set[str] = set()
    seen: set[Path] = set()
    given = {*sys.stdlib_module_names, *PROVIDED, *recipe.unused}
    todo = [root / recipe.script]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _imported(file, root):
            top = module.partition(".")[0]
            todo += _files(root, module)
            # Anything of the checkout comes first, as in Python's own search.
            is_known = top in given or _files(root, top) or (root / top).is_dir()
            if not is_known and not _is_installed(top):
                missing.add(top)
    if missing:
        packages = ['"vpl_plugin[upstream]"'] if missing & _EXTRA else []
        packages += sorted(_PACKAGES.get(name, name) for name in missing - _EXTRA)
        raise ImportError(
            f"the code in {root} imports {', '.join(sorted(missing))}, which is not installed:"
            f" pip install {' '.join(packages)}"
        )


def _imported(file: Path, root: Path) -> Iterator[str]:
    """The modules that a file of the checkout imports whatever happens, by their full names."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        # Python will say so, should the file be needed.
        return
    package = file.parent.relative_to(root).parts
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            if module:
                yield module
            # What is imported from a package may be a module of it.
            if module and _files(root, module):
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(root: Path, module: str) -> list[Path]:
    """The files of the checkout that importing a module runs."""
    parts = module.split(".")
    tried = [root.joinpath(*parts[:count], "__init__.py") for count in range(1, len(parts) + 1)] + [
        root.joinpath(*parts).with_suffix(".py")
    ]
    return [path for path in tried if path.is_file()]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        # It is loaded, by something that gave it no spec.
        return True
