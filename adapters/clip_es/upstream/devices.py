"""CLIP-ES names ``cuda:0`` itself: what stands in for it on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

__all__ = ["cpu_for_missing_cuda"]


@contextmanager
def cpu_for_missing_cuda() -> Iterator[None]:
    """Lets code that moves tensors and modules to ``cuda:...`` run on the CPU within the block.

    Where there is a GPU nothing changes. The patches reach the whole process: use it in a process
    of its own.

    Example:
        >>> with cpu_for_missing_cuda():
        ...     torch.zeros(2).to(f"cuda:{3 % torch.cuda.device_count()}").shape
        torch.Size([2])
    """
    if torch.cuda.is_available():
        yield
        return
    with (
        # CLIP-ES takes its process number modulo this.
        mock.patch.object(torch.cuda, "device_count", return_value=1),
        mock.patch.object(torch.Tensor, "to", _to_cpu(torch.Tensor.to)),
        mock.patch.object(torch.nn.Module, "to", _to_cpu(torch.nn.Module.to)),
    ):
        yield


def _to_cpu(to: Callable[..., Any]) -> Callable[..., Any]:
    def moved(self: Any, *args: Any, **options: Any) -> Any:
        args = tuple(_on_cpu(value) for value in args)
        return to(self, *args, **{name: _on_cpu(value) for name, value in options.items()})

    return moved


def _on_cpu(value: Any) -> Any:
    is_cuda = (isinstance(value, str) and value.startswith("cuda")) or (
        isinstance(value, torch.device) and value.type == "cuda"
    )
    return "cpu" if is_cuda else value
