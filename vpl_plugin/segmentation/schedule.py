"""The learning rate over the iterations of a training."""

from __future__ import annotations

__all__ = ["poly_learning_rate"]


def poly_learning_rate(
    base: float, iteration: int, iterations: int, *, power: float = 0.9, warmup: int = 0
) -> float:
    r"""The poly schedule of semantic segmentation, after a linear warm-up.

    .. math:: base \cdot (1 - iteration / iterations)^{power}

    Args:
        base: the learning rate at the start.
        iteration: from 0 to ``iterations`` - 1.
        iterations: of the whole training.
        power: 1 is a straight line.
        warmup: in this many iterations the rate grows from base / warmup to the schedule's.

    Example:
        >>> [round(poly_learning_rate(0.1, i, 4, warmup=2), 4) for i in range(4)]
        [0.05, 0.0772, 0.0536, 0.0287]
    """
    rising = min(1.0, (iteration + 1) / warmup) if warmup else 1.0
    return base * rising * (1 - iteration / iterations) ** power
