"""The processes that torchrun starts: who this one is, and what they tell one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

__all__ = ["Ranks", "joined_ranks"]

# Others may wait for hours while one works alone; torchrun ends all when one has died.
TIMEOUT = timedelta(days=7)


class Ranks(NamedTuple):
    """This process among its fellows.

    Attributes:
        rank: from 0.
        world: how many processes there are; 1 without a process group.
        device: where this one computes.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @classmethod
    def of_group(cls) -> Ranks:
        """As the default process group says, alone where there is none."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def alone(self) -> bool:
        """Whether no other process works on the same."""
        return self.world == 1

    def wait(self) -> None:
        """Returns once every process has come here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def merge(self, failures: dict[Path, str]) -> None:
        """Gives every process the failures of all."""
        if self.world > 1:
            import torch.distributed as dist

            gathered: list[dict[Path, str]] = [{} for _ in range(self.world)]
            dist.all_gather_object(gathered, failures)
            for theirs in gathered:
                failures.update(theirs)


@contextmanager
def joined_ranks(device: str | None) -> Iterator[Ranks]:
    """Joins the process group that torchrun's environment names; alone where it names none.

    Args:
        device: asked for; None is CUDA where there is one, under torchrun the GPU of this rank.

    Yields:
        This process. The group is left at the end.
    """
    import torch

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if world == 1:
        yield Ranks(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    # What is no tensor on a GPU, such as the failures, goes over gloo.
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Ranks(rank, world, device)
    finally:
        torch.distributed.destroy_process_group()
