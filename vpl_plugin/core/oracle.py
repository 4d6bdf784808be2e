"""The seam between solvers and data: loss and gradient at W, in one pass over the pixels.

A solver sees only :class:`Oracle`; a fused kernel, a disk stream or several ranks can stand behind
it without any solver changing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vpl_plugin.checks import describe
from vpl_plugin.core.constraints import unit_rows
from vpl_plugin.core.hardening import harden
from vpl_plugin.core.pixels import PixelChunk, Pixels
from vpl_plugin.core.targets import Target
from vpl_plugin.core.targets.text import text_distribution
from vpl_plugin.errors import InputError

__all__ = ["ClassOracle", "InstanceOracle", "Oracle", "TargetMoments"]


class Oracle(Protocol):
    """What a solver asks of the data."""

    @property
    def passes(self) -> int:
        """Evaluations so far, each one pass over the data."""
        ...

    def __call__(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (0-d) and its gradient (N, D) at the prototypes W (N, D)."""
        ...

    def second_moment(self) -> Tensor:
        """The mean of x x^T over the anchors x (D, D): what shapes the curvature of the loss."""
        ...


class TargetMoments:
    r"""What the targets contribute to Eq. 7, summed over the pixels once.

    With targets T, weights omega and unit rows x, cross-entropy is

    .. math:: L(W) = \frac{1}{\Omega} \Big( \sum_p \omega_p \log \sum_n e^{x_p^\top w_n / \tau_I}
              - \langle M, W \rangle / \tau_I \Big), \quad M = \sum_p \omega_p T_p^\top x_p,

    so each later pass needs the features alone: the (P, N) targets are never held.

    Attributes:
        moment: (N, D), M above.
        class_mass: (N,), the weight of the pixels of each class.
        total: 0-d, the weight Omega of all pixels.
        entropy: 0-d, the mean entropy H of the targets in nats; KL = L - H.
    """

    def __init__(
        self,
        pixels: Pixels,
        text_prototypes: Tensor,
        *,
        target: Target = text_distribution,
        tau_T: float,
        threshold: float | None,
        ignore_index: int,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        classes, dim = text_prototypes.shape
        # Sums over millions of pixels are kept in float64.
        zero = torch.zeros((), dtype=torch.float64, device=text_prototypes.device)
        self.moment = zero.new_zeros(classes, dim)
        self.class_mass = zero.new_zeros(classes)
        self.total = zero.clone()
        self.entropy = zero.clone()
        for chunk in pixels:
            x = unit_rows(chunk.features.to(text_prototypes.dtype))
            targets = _given_targets(chunk, x.dtype, classes, ignore_index)
            if targets is None:
                targets = target(x, text_prototypes, tau_T, label_masks=chunk.label_masks)
                if targets.shape != (len(x), classes):
                    raise InputError(
                        f"the target function must give probabilities of shape {(len(x), classes)};"
                        f" got {describe(targets)}"
                    )
                targets = targets.to(x.dtype)
            if threshold is not None:
                targets = harden(targets, threshold)
            entropy = torch.special.entr(targets).sum(dim=1)
            weights = _weights(chunk, x.dtype, ignore_index)
            if weights is None:
                self.total += len(x)
            else:
                targets = targets * weights[:, None]
                entropy = entropy * weights
                self.total += weights.sum(dtype=torch.float64)
            self.moment += targets.T @ x
            self.class_mass += targets.sum(dim=0, dtype=torch.float64)
            self.entropy += entropy.sum(dtype=torch.float64)
        if reduce is not None:
            self.moment, self.class_mass = reduce(self.moment), reduce(self.class_mass)
            self.total, self.entropy = reduce(self.total), reduce(self.entropy)
        if float(self.total) == 0:
            raise InputError(
                "every pixel is ignored: the weights sum to 0 or all targets are the ignore_index"
            )
        self.entropy /= self.total
        self.moment = self.moment.to(text_prototypes.dtype)


def _given_targets(
    chunk: PixelChunk, dtype: torch.dtype, classes: int, ignore_index: int
) -> Tensor | None:
    """The targets that came with the pixels as probabilities (p, N), or None."""
    given = chunk.targets
    if given is None or given.is_floating_point():
        return None if given is None else given.to(dtype)
    # An ignored row may stand at any class here: its weight is zero.
    indices = given.long()
    indices = indices.masked_fill(indices == ignore_index, 0)
    return torch.nn.functional.one_hot(indices, classes).to(dtype)


def _weights(chunk: PixelChunk, dtype: torch.dtype, ignore_index: int) -> Tensor | None:
    """The weight of each row, zero where it is ignored; None where all weigh one."""
    weights = chunk.weights
    if chunk.targets is not None and not chunk.targets.is_floating_point():
        # As int64: in a narrow dtype the comparison would wrap the ignore_index.
        kept = chunk.targets.long() != ignore_index
        weights = kept if weights is None else weights.masked_fill(~kept, 0)
    return None if weights is None else weights.to(dtype)


class InstanceOracle:
    r"""Instance-level regularisation: Eq. 7 with every pixel its own anchor.

    .. math:: \nabla L(W) = \frac{(P_{vis}(W) - P_{text})^\top X}{P \, \tau_I}
    """

    def __init__(
        self,
        pixels: Pixels,
        moments: TargetMoments,
        *,
        tau_I: float,
        ignore_index: int,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.passes = 0
        self._reduce = reduce
        self._pixels = pixels
        self._moments = moments
        self._tau_I = tau_I
        self._ignore_index = ignore_index
        # Row scales stay the same from pass to pass only where the rows do.
        self._scales: list[Tensor] | None = [] if pixels.in_memory else None

    def __call__(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of Eq. 7 up to the targets' entropy, and its gradient, in one pass."""
        tau, moments = self._tau_I, self._moments
        expected = torch.zeros_like(W)
        log_partition = torch.zeros((), dtype=torch.float64, device=W.device)
        for number, chunk in enumerate(self._pixels):
            x = chunk.features.to(W.dtype)
            scale = self._scale(number, x)
            # Scaling the (p, N) products instead of the (p, D) features spares a copy of them.
            logits = (x @ W.T).mul_(scale / tau)
            top = logits.amax(dim=1, keepdim=True)
            exponentials = logits.sub_(top).exp_()
            partition = exponentials.sum(dim=1, keepdim=True)
            weights = _weights(chunk, W.dtype, self._ignore_index)
            row_loss = partition.log() + top
            row_scale = scale / partition
            if weights is not None:
                row_loss *= weights[:, None]
                row_scale *= weights[:, None]
            log_partition += row_loss.sum(dtype=torch.float64)
            expected.addmm_(exponentials.mul_(row_scale).T, x)
        self.passes += 1
        if self._reduce is not None:
            expected, log_partition = self._reduce(expected), self._reduce(log_partition)
        agreement = (moments.moment.double() * W.double()).sum() / tau
        loss = (log_partition - agreement) / moments.total
        gradient = (expected - moments.moment) / (moments.total * tau).to(W.dtype)
        return loss, gradient

    def second_moment(self) -> Tensor:
        """The mean of x x^T over the pixels, one pass."""
        like = self._moments.moment
        total = torch.zeros(like.shape[1], like.shape[1], dtype=like.dtype, device=like.device)
        for number, chunk in enumerate(self._pixels):
            x = chunk.features.to(like.dtype)
            scale = self._scale(number, x).square()
            weights = _weights(chunk, like.dtype, self._ignore_index)
            if weights is not None:
                scale = scale * weights[:, None]
            total.addmm_(x.T, x * scale)
        self.passes += 1
        if self._reduce is not None:
            total = self._reduce(total)
        return total / self._moments.total.to(like.dtype)

    def _scale(self, number: int, x: Tensor) -> Tensor:
        if self._scales is not None and number < len(self._scales):
            return self._scales[number]
        scale = torch.linalg.vector_norm(x, dim=1, keepdim=True).reciprocal_()
        if self._scales is not None:
            self._scales.append(scale)
        return scale


class ClassOracle:
    r"""Class-level regularisation: the anchor of a pixel is its class, not the pixel itself.

    The paper names it above Theorem 2 ("given anchor class n, the distribution across all
    categories can be computed"). In Eq. 7 each x of class m gives way to z_m in the text
    distribution and to w_m in the vision distribution:

    .. math:: L(W) = -\sum_m \frac{\Omega_m}{\Omega} \sum_n P'_{m,n} \log P_{m,n}(W), \quad
              P'_{m} = \mathrm{softmax}(Z z_m / \tau_T), \;
              P_{m} = \mathrm{softmax}(W w_m / \tau_I).

    The pixels enter through their class masses Omega_m alone.
    """

    def __init__(
        self, moments: TargetMoments, text_prototypes: Tensor, *, tau_T: float, tau_I: float
    ) -> None:
        self.passes = 0
        self._tau_I = tau_I
        self._shares = (moments.class_mass / moments.total).to(text_prototypes.dtype)[:, None]
        self._anchors = text_prototypes
        self._text = text_distribution(text_prototypes, text_prototypes, tau_T)

    def __call__(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """The loss above and its gradient."""
        self.passes += 1
        log_vision = (W @ W.T / self._tau_I).log_softmax(dim=1)
        loss = -(self._shares * self._text * log_vision).sum(dtype=torch.float64)
        residual = self._shares * (log_vision.exp() - self._text) / self._tau_I
        # W is both the anchors and the classifier, so the gradient has two parts.
        return loss, (residual + residual.T) @ W

    def second_moment(self) -> Tensor:
        """The mean of z z^T over the text prototypes, the anchors the loss starts from."""
        return self._anchors.T @ (self._shares * self._anchors)
