"""Tells a full memory from other errors of PyTorch, and notes photos that cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vpl_plugin.errors import InputError

__all__ = ["is_out_of_memory", "noted"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU, or of the process, did not hold a tensor or a photo.

    Args:
        error: as PyTorch, NumPy or Pillow raised it.

    Example:
        >>> is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
        True
        >>> is_out_of_memory(RuntimeError("shapes do not fit"))
        False
        >>> is_out_of_memory(MemoryError())
        True
    """
    # On the CPU PyTorch has no error class for it.
    on_cpu = "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))


@contextmanager
def noted(failures: dict[Path, str], photo: Path, full: str) -> Iterator[None]:
    """Notes the failure of a photo that is broken, or, with the words ``full``, too large.

    Example:
        >>> failures = {}
        >>> with noted(failures, Path("a.jpg"), "too large:"):
        ...     raise MemoryError("1 TB asked for")
        >>> failures[Path("a.jpg")]
        'too large: 1 TB asked for'
    """
    try:
        yield
    # BrokenPhotoError is an InputError.
    except (InputError, FileNotFoundError) as error:
        failures[photo] = str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failures[photo] = f"{full} {error}".strip()
