"""Which examples an iteration takes: a function of the seed and the iteration, and of no state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["Draw", "PartSampler", "draws"]


class Draw(NamedTuple):
    """One photo of one iteration.

    Attributes:
        iteration: from 0.
        slot: its place in the batch of the iteration, from 0.
        example: index of the example.
    """

    iteration: int
    slot: int
    example: int

    def generator(self, seed: int) -> np.random.Generator:
        """The random numbers of this photo's augmentation, whichever process asks for them."""
        return np.random.default_rng([seed, 1, self.iteration, self.slot])


def draws(iteration: int, batch_size: int, num_examples: int, seed: int) -> list[Draw]:
    """The batch of an iteration: every example once an epoch, each epoch in an order of its own.

    An epoch ends where it ends, within a batch too: no example is left out.

    Args:
        iteration: from 0.
        batch_size: photos per iteration.
        num_examples: how many there are to draw from.
        seed: of the orders.

    Example:
        >>> sorted(draw.example for i in range(2) for draw in draws(i, 3, 6, seed=0))
        [0, 1, 2, 3, 4, 5]
    """
    batch = []
    for slot in range(batch_size):
        epoch, place = divmod(iteration * batch_size + slot, num_examples)
        batch.append(Draw(iteration, slot, int(_order(num_examples, seed, epoch)[place])))
    return batch


class PartSampler:
    """The draws of one process, a part of the batch at a time, from an iteration on.

    A batch is cut into ``accumulation`` parts, and each part into as many shares as there are
    ranks. So the parts hold the same photos however many ranks there are.

    Args:
        start: the first iteration.
        stop: the one after the last.
        batch_size: photos per iteration over all parts and ranks, a multiple of their product.
        num_examples: how many there are to draw from.
        seed: of the orders.
        accumulation: parts of a batch.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        num_examples: int,
        seed: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._iterations = range(start, stop)
        self._batch_size, self._num_examples, self._seed = batch_size, num_examples, seed
        self._parts, self._rank = accumulation, rank
        self._share = batch_size // (accumulation * world)
        self._part = self._share * world

    def __len__(self) -> int:
        return len(self._iterations) * self._parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration in self._iterations:
            batch = draws(iteration, self._batch_size, self._num_examples, self._seed)
            for part in range(self._parts):
                first = part * self._part + self._rank * self._share
                yield batch[first : first + self._share]


@lru_cache(maxsize=4)
def _order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_examples)
