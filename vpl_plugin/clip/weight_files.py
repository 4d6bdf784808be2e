"""Files of weights, opened without unpickling anything; what is not such a file is named."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vpl_plugin.clip.one_line import one_line
from vpl_plugin.errors import InputError

__all__ = ["WeightFile", "looks_like_weights", "read_weight_file"]

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

_HEAD = 512
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# What a file with weights may be instead; compared in lower case.
_IMPOSTORS = (
    (
        b"version https://git-lfs",
        "is a git-lfs pointer, not the weights: run 'git lfs pull' where it was cloned",
    ),
    (b"<!doctype html", "is a web page, not weights: open its address in a browser to see why"),
    (b"<html", "is a web page, not weights: open its address in a browser to see why"),
    (b"<?xml", "is an XML document, not weights: its text says why the download failed"),
    (b"{", "is JSON text, not weights"),
)


class WeightFile(NamedTuple):
    """What a file holds.

    Attributes:
        content: what was saved: a state dict, or a mapping that holds one.
        is_torchscript: it is a TorchScript archive, as OpenAI distributes its models.
    """

    content: Any
    is_torchscript: bool


def looks_like_weights(name: str | os.PathLike[str]) -> bool:
    """Whether a file with weights is meant, be it there or not; else it may be a model's name."""
    path = Path(name)
    return not isinstance(name, str) or path.is_file() or path.suffix in _SUFFIXES


def read_weight_file(path: Path) -> WeightFile:
    """Read what ``torch.save``, ``torch.jit.save`` or safetensors wrote, onto the CPU.

    The first bytes decide which it is, not the name.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is empty, truncated or damaged, is something else (a git-lfs pointer,
            a web page, text), or holds pickled objects, which are never run.
        MemoryError: it does not fit into the memory.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file with weights at {path}")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    size = path.stat().st_size
    is_safetensors = _is_safetensors(head)
    if not is_safetensors:
        _refuse_impostor(path, head)
    try:
        if is_safetensors:
            return WeightFile(_read_safetensors(path, size), False)
        if head.startswith(_ZIP) and not zipfile.is_zipfile(path):
            # The list of a zip archive's members lies at its end.
            raise InputError("its end is missing, so it is truncated: copy or download it again")
        if _is_torchscript(path):
            with warnings.catch_warnings():
                # torch deprecates the format, in which OpenAI's files nevertheless come.
                warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
                return WeightFile(torch.jit.load(path, map_location="cpu").state_dict(), True)
        # Opened here: by its name torch would decide what it is.
        with path.open("rb") as file:
            return WeightFile(torch.load(file, map_location="cpu", weights_only=True), False)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds other Python objects than tensors, or is damaged. Such objects could "
            "run code and are not loaded: save the model's state_dict() instead"
        ) from error
    # The readers raise errors of their own for damaged files, safetensors one that is
    # derived from Exception only.
    except Exception as error:
        raise InputError(f"cannot read weights from {path}: {one_line(error)}") from error


def _refuse_impostor(path: Path, head: bytes) -> None:
    if not head:
        raise InputError(f"{path} is empty: copy or download it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, what in _IMPOSTORS:
        if text.startswith(start):
            raise InputError(f"{path} {what}")
    if path.suffix == ".safetensors" and not head.startswith((_ZIP, _PICKLE)):
        raise InputError(
            f"cannot read weights from {path}: it does not begin as a safetensors file does, so it"
            " is damaged or another file"
        )


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, below 2^40, and the header itself."""
    return head[5:9] == b"\0\0\0{"


def _read_safetensors(path: Path, size: int) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError:
        _refuse_truncated(path, size)
        raise


def _refuse_truncated(path: Path, size: int) -> None:
    """Says so where a safetensors file is shorter than its header announces."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        expected = 8 + length
        if expected <= size:
            try:
                header = json.loads(file.read(length))
                expected += max(
                    part["data_offsets"][1] for name, part in header.items() if name[:2] != "__"
                )
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return
    if expected > size:
        raise InputError(f"it is truncated, {size} bytes of {expected}: copy or download it again")


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
