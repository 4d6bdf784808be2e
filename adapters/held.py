"""What costs to make, kept as far as it fits in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

__all__ = ["Held"]

ItemT = TypeVar("ItemT")


class Held(Sequence[ItemT], ABC):
    """Items that are made when they are asked for; those that fit are made once.

    Args:
        count: how many there are.
        held_bytes: the most memory that is kept; what is beyond it is made anew each time.

    Example:
        >>> class Squares(Held[int]):
        ...     def make(self, index):
        ...         print("made", index)
        ...         return index**2
        ...
        ...     def size(self, index, item):
        ...         return 8
        >>> squares = Squares(3, held_bytes=8)
        >>> squares[1], squares[2], squares[1], squares[2]
        made 1
        made 2
        made 2
        (1, 4, 1, 4)
    """

    def __init__(self, count: int, held_bytes: float) -> None:
        self._count, self._room = count, held_bytes
        self._items: dict[int, ItemT] = {}

    @abstractmethod
    def make(self, index: int) -> ItemT:
        """An item."""

    @abstractmethod
    def size(self, index: int, item: ItemT) -> float:
        """The memory that keeping it takes."""

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ItemT: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ItemT]: ...

    def __getitem__(self, index: int | slice) -> ItemT | Sequence[ItemT]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < self._count:
            raise IndexError(f"index must lie in [0, {self._count - 1}]; got {index}")
        if index in self._items:
            return self._items[index]
        item = self.make(index)
        size = self.size(index, item)
        if size <= self._room:
            self._room -= size
            self._items[index] = item
        return item

    def holds(self, index: int) -> bool:
        """Whether an item is in memory to stay."""
        return index in self._items
