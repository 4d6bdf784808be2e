"""A block in which PyTorch computes in the calling thread alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sets PyTorch's number of threads to 1, and back at the end.

    A field takes about a thousand short operations. To split each among threads gains little, costs
    much where the cores are busy, and changes the rounding at the seams; photos are better split
    among threads or processes. With OpenMP, as in PyTorch's own builds, the number is that of the
    calling thread, so threads do not disturb one another.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
