"""Pixels spread over processes: what ``learn_vision_prototypes`` sums over all of them."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["sum_over_ranks"]


def sum_over_ranks(value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of a tensor over the ranks of a process group, the same bits on each.

    Args:
        value: of one shape and dtype on all ranks; overwritten.
        group: None is the default group, which must be initialised.

    Returns:
        The sum.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.

    Example:
        Every rank gives the features it holds and gets the prototypes of all of them::

            torch.distributed.init_process_group("gloo")
            W = learn_vision_prototypes(my_features, text_protos, reduce=sum_over_ranks)
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "sum_over_ranks needs torch.distributed: run under torchrun and call"
            " torch.distributed.init_process_group first"
        )
    dist.all_reduce(value, group=group)
    return value
