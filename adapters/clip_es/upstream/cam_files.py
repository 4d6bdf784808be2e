"""Upstream CLIP-ES's CAM files: a pickled dict in .npy, read without running what it holds."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError

__all__ = ["read_upstream_cams", "write_upstream_cams"]

# All that NumPy's own pickles name; numpy.core became numpy._core in NumPy 2.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
}
_KEYS, _CAMS = "keys", "attn_highres"


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CAM file needs")
        return super().find_class(module, name)


def read_upstream_cams(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the CAMs that CLIP-ES's ``generate_cams_*.py`` saves for one photo.

    The file is a pickle; one that asks for anything but NumPy arrays is refused, not run.

    Args:
        path: of the .npy file.

    Returns:
        The class indices (K,) int64, and the refined CAMs (K, H, W) float16 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, it is cut short, or it asks for more than arrays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_upstream_cams(f"{folder}/a.npy", [7], np.ones((1, 2, 3)))
        ...     keys, cams = read_upstream_cams(f"{folder}/a.npy")
        >>> keys, cams.shape, cams.dtype
        (array([7]), (1, 2, 3), dtype('float16'))
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            held = _object_of(file)
        # A hostile or broken pickle can raise nearly anything.
        except Exception as error:
            raise InputError(f"{path} is not a CAM file of CLIP-ES: {error}") from error
    if not isinstance(held, dict) or not {_KEYS, _CAMS} <= held.keys():
        found = sorted(map(str, held)) if isinstance(held, dict) else f"a {type(held).__name__}"
        raise InputError(f"{path} must hold a dict with {_KEYS!r} and {_CAMS!r}; it holds {found}")
    try:
        return _checked(held[_KEYS], held[_CAMS])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def write_upstream_cams(path: str | os.PathLike[str], keys: Any, cams: Any) -> None:
    """Writes CAMs as CLIP-ES does, for its ``eval_cam.py`` and ``eval_cam_with_crf.py``.

    Args:
        path: of the .npy file, named after the photo; its folder must exist.
        keys: (K,) class indices from 0, without the background.
        cams: (K, H, W) at the photo's size, values in [0, 1]; stored as float16.

    Raises:
        ValueError: the shapes do not fit.
        OSError: the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_upstream_cams(f"{folder}/a.npy", [7], np.ones((1, 2, 3)))
        ...     held = np.load(f"{folder}/a.npy", allow_pickle=True).item()
        >>> sorted(held)
        ['attn_highres', 'keys']
    """
    checked_keys, checked_cams = _checked(np.asarray(keys), np.asarray(cams))
    held: Any = {_KEYS: checked_keys, _CAMS: checked_cams}
    with whole_file(path) as part, part.open("wb") as file:
        np.save(file, held)


def _object_of(file: BinaryIO) -> Any:
    """The one object of a .npy file of dtype object."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if not dtype.hasobject or shape != ():
        raise InputError(f"it holds an array {dtype} of shape {shape}, not a dict")
    array = _ArrayUnpickler(file).load()
    return array.item() if isinstance(array, np.ndarray) else array


def _checked(keys: Any, cams: Any) -> tuple[np.ndarray, np.ndarray]:
    for name, value, kinds, rank in (("keys", keys, "iu", 1), ("cams", cams, "f", 3)):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != rank:
            what = (
                f"{value.dtype} of shape {value.shape}"
                if isinstance(value, np.ndarray)
                else f"a {type(value).__name__}"
            )
            expected = "integers of shape (K,)" if rank == 1 else "floats of shape (K, H, W)"
            raise InputError(f"{name} must be {expected}; got {what}")
    if len(keys) != len(cams):
        raise InputError(f"keys and cams must be as many; got {len(keys)} and {len(cams)}")
    return keys.astype(np.int64), cams.astype(np.float16)
