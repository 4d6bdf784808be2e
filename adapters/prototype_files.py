"""Prototypes on disk: safetensors for the numbers, JSON beside them for what made them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vpl_plugin.atomic_files import whole_file

__all__ = ["load_prototypes", "save_prototypes"]

TENSOR_NAME = "prototypes"


def save_prototypes(
    path: str | os.PathLike[str], prototypes: Tensor, made_by: Mapping[str, Any]
) -> None:
    """Writes ``path`` (safetensors) and, under the same name, a .json with what made them.

    Args:
        path: ends in .safetensors; its folder must exist.
        prototypes: (N, D).
        made_by: anything JSON can hold: model, classes, temperatures, solver, loss, gap.

    Raises:
        ValueError: the path does not end in .safetensors.
        OSError: a file cannot be written; what stood there before is kept.
    """
    from safetensors.torch import save

    path = _checked(path)
    with whole_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(dict(made_by), indent=2) + "\n")
    with whole_file(path) as part:
        # Not save_file: it gives a full disk an error of its own, and the file to its owner alone.
        part.write_bytes(save({TENSOR_NAME: prototypes.contiguous()}))


def load_prototypes(path: str | os.PathLike[str]) -> tuple[Tensor, dict[str, Any]]:
    """Reads what :func:`save_prototypes` wrote.

    Args:
        path: ends in .safetensors.

    Returns:
        The prototypes (N, D) on the CPU, and what made them (empty without the .json).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is broken, or holds no prototypes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _checked(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if TENSOR_NAME not in tensors or tensors[TENSOR_NAME].ndim != 2:
        raise ValueError(
            f"{path} must hold a tensor {TENSOR_NAME!r} of rank 2; it holds {sorted(tensors)}"
        )
    return tensors[TENSOR_NAME], _made_by(path.with_suffix(".json"))


def _made_by(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds {held!r}")
    return held


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}")
    return path
