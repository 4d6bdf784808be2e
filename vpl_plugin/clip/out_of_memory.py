"""Tells a full memory from other errors of PyTorch."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]


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
