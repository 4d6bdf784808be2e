"""Methods name ``cuda`` themselves: what stands in for it on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    parallel = torch.nn.parallel.DistributedDataParallel
    patches = [
        # CLIP-ES takes its process number modulo this.
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "set_device", lambda device: None),
        (torch.cuda, "get_device_name", lambda device=None: "CPU"),
        (parallel, "__init__", _without_devices(parallel.__init__)),
    ]
    for kind in (torch.Tensor, torch.nn.Module):
        patches += [(kind, "to", _to_cpu(kind.to)), (kind, "cuda", _stays)]
    with ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
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


def _stays(self: Any, *args: Any, **options: Any) -> Any:
    return self


def _without_devices(make: Callable[..., None]) -> Callable[..., None]:
    def made(self: Any, module: Any, device_ids: Any = None, *args: Any, **options: Any) -> None:
        make(self, module, None, *args, **options)

    return made
