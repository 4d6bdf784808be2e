"""A prior that holds vision prototypes near the text prototypes, where pixels say little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from vpl_plugin.core.oracle import Oracle

__all__ = ["ANCHORS", "Anchor", "AnchoredOracle", "MeanDirection", "Quadratic"]


class Anchor(Protocol):
    """A penalty on the distance of W to the text prototypes Z."""

    def penalty(self, W: Tensor) -> Tensor:
        """The penalty at W, 0-d float64, in nats."""
        ...

    def gradient(self, W: Tensor) -> Tensor:
        """Its gradient (N, D)."""
        ...


class MeanDirection:
    r"""On the sphere: each row's negative log density under a von Mises-Fisher prior around z_n.

    .. math:: \lambda \sum_n (1 - z_n^\top w_n) = \tfrac{\lambda}{2} \|W - Z\|^2

    It is linear in W, as is what the targets contribute to Eq. 7 of the VPL paper: the prior acts
    as if :math:`\lambda \Omega \tau_I z_n` were added to the targets' moment M of each class.

    Args:
        Z: (N, D), unit rows.
        weight: lambda, 0 or more.

    Example:
        >>> import torch
        >>> anchor = MeanDirection(torch.eye(2), weight=0.5)
        >>> float(anchor.penalty(torch.eye(2))), float(anchor.penalty(-torch.eye(2)))
        (0.0, 2.0)
    """

    def __init__(self, Z: Tensor, weight: float) -> None:
        self._Z = Z
        self._weight = weight
        self._gradient = -weight * Z

    def penalty(self, W: Tensor) -> Tensor:
        """The penalty at W, 0-d float64, in nats."""
        return self._weight * (1 - (self._Z.double() * W.double()).sum(dim=1)).sum()

    def gradient(self, W: Tensor) -> Tensor:
        """Its gradient (N, D), the same everywhere."""
        return self._gradient


class Quadratic:
    r"""In the ball, where norms vary: :math:`\tfrac{\lambda}{2} \|W - Z\|^2`.

    Args:
        Z: (N, D), unit rows.
        weight: lambda, 0 or more.

    Example:
        >>> import torch
        >>> float(Quadratic(torch.eye(2), weight=0.5).penalty(torch.zeros(2, 2)))
        0.5
    """

    def __init__(self, Z: Tensor, weight: float) -> None:
        self._Z = Z
        self._weight = weight

    def penalty(self, W: Tensor) -> Tensor:
        """The penalty at W, 0-d float64, in nats."""
        return self._weight / 2 * (W.double() - self._Z.double()).square().sum()

    def gradient(self, W: Tensor) -> Tensor:
        """Its gradient (N, D)."""
        return self._weight * (W - self._Z)


ANCHORS: dict[str, Callable[[Tensor, float], Anchor]] = {
    "sphere": MeanDirection,
    "ball": Quadratic,
}
"""The penalty that goes with each constraint, from Z and lambda."""


class AnchoredOracle:
    """An oracle whose loss has the penalty added: no pass over the data more.

    Args:
        oracle: of the data, such as :class:`~vpl_plugin.core.oracle.InstanceOracle`.
        anchor: the penalty.
    """

    def __init__(self, oracle: Oracle, anchor: Anchor) -> None:
        self._oracle = oracle
        self._anchor = anchor

    @property
    def passes(self) -> int:
        """Evaluations so far, each one pass over the data."""
        return self._oracle.passes

    def __call__(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """The penalised loss and its gradient."""
        loss, gradient = self._oracle(W)
        return loss + self._anchor.penalty(W), gradient + self._anchor.gradient(W)

    def second_moment(self) -> Tensor:
        """Of the data."""
        return self._oracle.second_moment()
