"""A checkout of upstream CLIP-ES: is it one, and what do its scripts call things."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames
from vpl_plugin.errors import InputError

__all__ = ["SCRIPTS", "UpstreamScript", "check_checkout", "check_packages"]


class UpstreamScript(NamedTuple):
    """What is known of one of upstream's two CAM scripts.

    Attributes:
        module: its name, without .py.
        class_names: the list of class names that become text features, in the script.
        background_names: the same of the background.
        perform: the arguments of its ``perform``.
        labels_in_split: the split file names the classes of each photo; else VOC's annotations do.
        split_file: upstream's default.
        names: the classes, under the data set's own labels.
    """

    module: str
    class_names: str
    background_names: str
    perform: tuple[str, ...]
    labels_in_split: bool
    split_file: str
    names: ClassNames


_PERFORM = (
    *("process_id", "dataset_list", "args", "model"),
    *("bg_text_features", "fg_text_features", "cam"),
)
SCRIPTS = {
    "voc12": UpstreamScript(
        "generate_cams_voc12",
        "new_class_names",
        "BACKGROUND_CATEGORY",
        _PERFORM,
        False,
        "voc12/train.txt",
        VOC,
    ),
    "coco14": UpstreamScript(
        "generate_cams_coco14",
        "new_class_names_coco",
        "BACKGROUND_CATEGORY_COCO",
        (*_PERFORM, "split_label_list"),
        True,
        "coco14/train.txt",
        COCO,
    ),
}
_MODULES = ("clip/__init__.py", "clip_text.py", "pytorch_grad_cam/__init__.py", "utils.py")
# What the extra "upstream" installs, and what the runner provides where setuptools has lost it.
_EXTRA, _PROVIDED = frozenset({"lxml"}), frozenset({"pkg_resources"})
_FUNCTIONS = ("perform", "reshape_transform", "split_dataset", "zeroshot_classifier")


def check_checkout(checkout: str | os.PathLike[str], script: UpstreamScript) -> Path:
    """Reads, without running anything, whether a folder is a CLIP-ES checkout of a known shape.

    Args:
        checkout: the folder.
        script: which of its scripts is to run.

    Returns:
        The folder's absolute path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: files are missing, or the script is not of the shape known.
    """
    root = Path(checkout).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    needed = (f"{script.module}.py", *_MODULES)
    missing = [name for name in needed if not (root / name).is_file()]
    if missing:
        raise InputError(f"{root} is not a checkout of CLIP-ES: it lacks {', '.join(missing)}")
    path = root / f"{script.module}.py"
    try:
        body = ast.parse(path.read_bytes()).body
    except SyntaxError as error:
        raise InputError(f"{path} is not readable Python: {error}") from error
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    lacking = [name for name in _FUNCTIONS if name not in functions]
    if lacking:
        raise InputError(f"{path} is of an unknown shape: it does not define {', '.join(lacking)}")
    found = tuple(argument.arg for argument in functions["perform"].args.args)
    if found != script.perform:
        raise InputError(
            f"{path} is of an unknown shape: its perform takes ({', '.join(found)}),"
            f" where ({', '.join(script.perform)}) is expected"
        )
    return root


def check_packages(root: Path, script: UpstreamScript) -> None:
    """Whether the packages that the checkout's code imports are installed; runs nothing of it.

    Args:
        root: as :func:`check_checkout` gives it.
        script: which of its scripts is to run.

    Raises:
        ImportError: some are not; the message says what to install.
    """
    missing: set[str] = set()
    seen: set[Path] = set()
    todo = [root / f"{script.module}.py"]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _imported(file, root):
            top = module.partition(".")[0]
            todo += _files(root, module)
            # Anything of the checkout comes first, as in Python's own search.
            is_known = top in sys.stdlib_module_names or top in _PROVIDED or _files(root, top)
            if not is_known and not _is_installed(top):
                missing.add(top)
    if missing:
        packages = ['"vpl_plugin[upstream]"'] if missing & _EXTRA else []
        packages += sorted(missing - _EXTRA)
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
