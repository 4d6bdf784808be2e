"""The support bank: instance prototypes of many photos, a bounded number per class.

From the paper: a bank of instance features a class, from which context prototypes are clustered.
Ours: what stays when it is full. Each entry draws a priority from the seed and the photo's name
alone, and those of the smallest priorities stay: a uniform sample, whatever the order of the photos
and however many processes fill banks that are merged later.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.constants import CAPACITY
from vpl_plugin.checks import check_count, check_matrix, describe
from vpl_plugin.errors import InputError

__all__ = ["SupportBank"]


class SupportBank:
    """A bounded, seeded sample of vectors per class.

    Memory is at most ``num_classes * capacity`` vectors, however many are added.

    Args:
        num_classes: C.
        capacity: the most vectors of a class.
        seed: of the sample.

    Example:
        >>> bank = SupportBank(2, capacity=3)
        >>> for number in range(100):
        ...     bank.add(f"photo {number}", [1], torch.ones(1, 4))
        >>> [len(bank.vectors(index)) for index in range(2)]
        [0, 3]
    """

    def __init__(self, num_classes: int, capacity: int = CAPACITY, seed: int = 0) -> None:
        check_count("num_classes", num_classes)
        check_count("capacity", capacity)
        self.capacity, self.seed = capacity, seed
        # Heaps of (-priority, name, vector): the entry to give way is at the root.
        self._held: list[list[tuple[int, str, Tensor]]] = [[] for _ in range(num_classes)]

    def add(self, name: str, classes: Sequence[int], instances: Tensor) -> None:
        """Offers the instance prototypes of a photo.

        Args:
            name: of the photo, unique; it decides, with the seed, whether they stay.
            classes: K indices.
            instances: (K, D), in their order.

        Raises:
            ValueError: shapes that do not fit, or a class that does not exist.
        """
        check_matrix("instances", instances)
        if len(classes) != len(instances):
            raise InputError(
                f"instances must have a row for each of the {len(classes)} classes;"
                f" got {describe(instances)}"
            )
        wrong = [index for index in classes if not 0 <= index < len(self._held)]
        if wrong:
            raise InputError(
                f"classes must lie in [0, {len(self._held) - 1}]; got {wrong[0]} in {name!r}"
            )
        for index, vector in zip(classes, instances.detach().float().cpu(), strict=True):
            # A clone, as a row would keep all rows in memory.
            self._offer(index, (-self._priority(name, index), name, vector.clone()))

    def merge(self, other: SupportBank) -> None:
        """Takes over what another bank of the same seed holds; the photos of both must differ.

        Raises:
            ValueError: the banks differ in classes, capacity or seed.
        """
        mine, theirs = ((len(bank._held), bank.capacity, bank.seed) for bank in (self, other))
        if mine != theirs:
            raise InputError(
                "banks to merge must have the same number of classes, capacity and seed;"
                f" got {mine} and {theirs}"
            )
        for index, held in enumerate(other._held):
            for entry in held:
                self._offer(index, entry)

    def vectors(self, index: int) -> Tensor:
        """(m, D) of a class, m at most the capacity, in an order that depends on the seed alone.

        Without a vector of the class it is (0, 0).
        """
        held = sorted(self._held[index], key=lambda entry: (-entry[0], entry[1]))
        return torch.stack([vector for _, _, vector in held]) if held else torch.empty(0, 0)

    def _offer(self, index: int, entry: tuple[int, str, Tensor]) -> None:
        held = self._held[index]
        if len(held) < self.capacity:
            heapq.heappush(held, entry)
        elif entry[:2] > held[0][:2]:
            heapq.heapreplace(held, entry)

    def _priority(self, name: str, index: int) -> int:
        text = f"{self.seed}:{index}:{name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
