"""Vision prototypes learned from text supervision: Alg. 1 of the VPL paper (Eq. 3-11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.checks import (
    check_choice,
    check_count,
    check_fraction,
    check_ignore_index,
    check_matrix,
    check_not_negative,
    check_positive,
    check_rows,
)
from vpl_plugin.core.anchor import ANCHORS, Anchor, AnchoredOracle
from vpl_plugin.core.constraints import CONSTRAINTS, unit_rows
from vpl_plugin.core.descent import Point, Problem, descend
from vpl_plugin.core.oracle import ClassOracle, InstanceOracle, Oracle, TargetMoments
from vpl_plugin.core.pixels import PixelChunk, Pixels
from vpl_plugin.core.solvers import SOLVERS
from vpl_plugin.core.targets import TARGETS
from vpl_plugin.errors import InputError

__all__ = [
    "Iterate",
    "PrototypeFit",
    "fit_vision_prototypes",
    "learn_vision_prototypes",
]

REGULARIZATIONS = ("instance", "class")
CPU_CHUNK = 4_096
ACCELERATOR_CHUNK = 65_536


class Iterate(NamedTuple):
    """What a callback sees of one iteration; reading a value on the host is the callback's choice.

    Attributes:
        iteration: from 0.
        prototypes: (N, D), W.
        loss: 0-d, the cross-entropy of Eq. 7 in nats.
        gap: 0-d, the cosine gap of the pixels to their classes' prototypes, in [0, 2].
        objective: 0-d, what is minimised: the loss, and the penalty of the anchor.
    """

    iteration: int
    prototypes: Tensor
    loss: Tensor
    gap: Tensor
    objective: Tensor


class PrototypeFit(NamedTuple):
    """Vision prototypes, and how they were reached.

    Attributes:
        prototypes: (N, D), W.
        losses: (T + 1,) float64, the cross-entropy of Eq. 7 in nats at W_0 and after each of the
            T iterations.
        gaps: (T + 1,) float64, the cosine gap 1 - mean_p sum_n T[p, n] x_p w_n at the same points.
        target_entropy: 0-d, the entropy of the targets in nats; the KL divergence of Eq. 7 is
            ``losses - target_entropy``.
        passes: passes over the data that the solver took.
        stop_reason: "iterations", "tolerance", "callback" or "stalled" (no step descends any
            more at this precision).
        objectives: (T + 1,) float64, what is minimised at the same points: the loss, and the
            penalty of the anchor.
    """

    prototypes: Tensor
    losses: Tensor
    gaps: Tensor
    target_entropy: Tensor
    passes: int
    stop_reason: str
    objectives: Tensor


def learn_vision_prototypes(
    features: Tensor | Iterable[Tensor | PixelChunk],
    text_protos: Tensor,
    tau_I: float = 0.03,
    *,
    tau_T: float = 0.01,
    targets: Tensor | str | None = None,
    threshold: float | None = None,
    label_masks: Tensor | None = None,
    weights: Tensor | None = None,
    ignore_index: int = 255,
    solver: str = "apgd",
    constraint: str = "sphere",
    lr: float = 10.0,
    iterations: int = 3000,
    tolerance: float = 3e-4,
    anchor: float = 0.0,
    chunk_size: int | None = None,
    regularization: str = "instance",
    callback: Callable[[Iterate], bool | None] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Learns class prototypes in vision space from text prototypes (Alg. 1 of the VPL paper).

    From W_0 = Z it minimises Eq. 7,

    .. math:: \min_W \sum_p \mathrm{KL}(P'_p \,\|\, P_p(W)), \quad
              P_p(W) = \mathrm{softmax}(x_p W^\top / \tau_I),

    by projected gradient descent (Eq. 11), where P' comes from the text prototypes (Eq. 5) or from
    the targets given, such as GradCAM seeds (the m_i of Theorem 3). On photographs the targets
    decide: seeds lift the CAMs where Eq. 5 alone does not (docs/evidence.md).

    Features and text prototypes are put on the unit sphere first. All is computed in float32, or
    in float64 where either input is; features of float16 and bfloat16 are converted a chunk at a
    time. Memory beyond the inputs is bounded by ``chunk_size``, whatever P is.

    Args:
        features: (P, D) pixel features; or an iterable of (p, D) tensors or
            :class:`~vpl_plugin.core.pixels.PixelChunk`, for data that does not fit in memory. A
            re-iterable (a list, or an object whose ``__iter__`` starts anew) is read once a pass;
            a generator is read once and kept.
        text_protos: (N, D), Z, one row per class, N >= 2, on the features' device.
        tau_I: temperature of the vision distribution, above 0. Proposition 1: above tau_T.
        tau_T: CLIP's temperature, for Eq. 5, above 0.
        targets: None for Eq. 5; integer class indices (P,), or probabilities (P, N); or the name
            of a function that makes them, see :data:`~vpl_plugin.core.targets.TARGETS`.
        threshold: Phi in [0, 1]: target rows whose largest probability exceeds it become one-hot.
            None keeps the targets as they are.
        label_masks: (P, N) bool, the classes known to be present in each pixel's photo; restricts
            Eq. 5 to them.
        weights: (P,), not negative: how much each pixel counts.
        ignore_index: the class index of pixels that do not count.
        solver: "apgd" (accelerated), "pgd" (the paper's fixed step) or "pgd_halving" (InMaP's).
        constraint: "sphere" for unit rows, or "ball" for rows of norm at most 1.
        lr: alpha of Eq. 11; for "apgd" the first step tried.
        iterations: T_w, the most iterations.
        tolerance: stops where the norm of the projected gradient is at or under this share of its
            scale, 1 / tau_I + anchor; 0 never stops, and then no iteration of "pgd" and
            "pgd_halving" waits for the device.
        anchor: lambda, the weight of a prior that holds each row near its text prototype: adds
            lambda sum_n (1 - z_n w_n) to Eq. 7 on the sphere, and lambda / 2 ||W - Z||^2 in the
            ball. 0 is the paper's problem. On photographs 0.1 is better at any size of data
            (docs/evidence.md), and the adapters take it.
        chunk_size: pixels taken at a time; None: 4,096 on a CPU, where such a chunk stays in the
            cache, and 65,536 elsewhere. The result does not depend on it beyond rounding.
        regularization: "instance" (Eq. 7; each pixel is an anchor) or "class" (each pixel's
            anchor is its class; see Theorem 2, and :class:`~vpl_plugin.core.oracle.ClassOracle`).
        callback: called with an :class:`Iterate` each iteration; True from it stops.
        reduce: where the pixels are spread over processes: maps a tensor to its sum over all of
            them, such as :func:`~vpl_plugin.core.distributed.sum_over_ranks`. Each process gives
            its own pixels, at least one, and gets the same W.

    Returns:
        W (N, D) on the device and of the dtype of ``text_protos``; unit rows on the sphere.
        :func:`fit_vision_prototypes` also says how they were reached.

    Raises:
        TypeError: features or text_protos are not floating-point tensors.
        InputError: any other input that does not fit; the message names it, says what it got and
            what it takes. Everything is checked before any work is done.
        FloatingPointError: a temperature or ``lr`` so extreme that W is not finite.

    Example:
        >>> from vpl_plugin import learn_vision_prototypes
        >>> features = torch.tensor([[1.0, 0.1, 0.0], [0.7, 0.1, 0.7], [0.0, 0.1, 1.0]])
        >>> text_protos = torch.tensor([[0.3, 0.9, 0.1], [0.1, 0.9, 0.3]])
        >>> W = learn_vision_prototypes(features, text_protos, tau_I=0.03)
        >>> W.shape, torch.allclose(W.norm(dim=1), torch.ones(2))
        (torch.Size([2, 3]), True)
    """
    return fit_vision_prototypes(
        features,
        text_protos,
        tau_I,
        tau_T=tau_T,
        targets=targets,
        threshold=threshold,
        label_masks=label_masks,
        weights=weights,
        ignore_index=ignore_index,
        solver=solver,
        constraint=constraint,
        lr=lr,
        iterations=iterations,
        tolerance=tolerance,
        anchor=anchor,
        chunk_size=chunk_size,
        regularization=regularization,
        callback=callback,
        reduce=reduce,
    ).prototypes


def fit_vision_prototypes(
    features: Tensor | Iterable[Tensor | PixelChunk],
    text_protos: Tensor,
    tau_I: float = 0.03,
    *,
    tau_T: float = 0.01,
    targets: Tensor | str | None = None,
    threshold: float | None = None,
    label_masks: Tensor | None = None,
    weights: Tensor | None = None,
    ignore_index: int = 255,
    solver: str = "apgd",
    constraint: str = "sphere",
    lr: float = 10.0,
    iterations: int = 3000,
    tolerance: float = 3e-4,
    anchor: float = 0.0,
    chunk_size: int | None = None,
    regularization: str = "instance",
    callback: Callable[[Iterate], bool | None] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> PrototypeFit:
    """:func:`learn_vision_prototypes`, with how the prototypes were reached.

    Takes the same arguments and raises the same errors. Where the solver takes all iterations, the
    loss of the last point is one evaluation more, which ``passes`` does not count.

    Returns:
        The prototypes, the trace of loss and gap, the passes, and why the solver stopped.

    Example:
        >>> features = torch.tensor([[1.0, 0.1, 0.0], [0.7, 0.1, 0.7], [0.0, 0.1, 1.0]])
        >>> text_protos = torch.tensor([[0.3, 0.9, 0.1], [0.1, 0.9, 0.3]])
        >>> fit = fit_vision_prototypes(features, text_protos, tau_I=0.03)
        >>> bool(fit.losses[-1] < fit.losses[0]), fit.stop_reason
        (True, 'tolerance')
    """
    check_matrix("text_protos", text_protos, min_rows=2)
    check_positive("tau_I", tau_I)
    check_positive("tau_T", tau_T)
    check_positive("lr", lr)
    check_not_negative("tolerance", tolerance)
    check_not_negative("anchor", anchor)
    check_count("iterations", iterations)
    if chunk_size is None:
        chunk_size = CPU_CHUNK if text_protos.device.type == "cpu" else ACCELERATOR_CHUNK
    check_count("chunk_size", chunk_size)
    check_choice("constraint", constraint, CONSTRAINTS)
    check_choice("regularization", regularization, REGULARIZATIONS)
    if threshold is not None:
        check_fraction("threshold", threshold)
    check_ignore_index(ignore_index, len(text_protos))
    solve = SOLVERS[solver]
    target = TARGETS[targets if isinstance(targets, str) else "text"]
    given = None if isinstance(targets, str) else targets
    check_rows("text_protos", text_protos)
    pixels = _pixels(features, given, weights, label_masks, chunk_size)
    pixels.check(text_protos, ignore_index, reduce)

    # Autocast would take the products of the solver down to half precision.
    with torch.no_grad(), torch.autocast(text_protos.device.type, enabled=False):
        Z = unit_rows(text_protos.to(_compute_dtype(pixels, text_protos)))
        moments = TargetMoments(
            pixels,
            Z,
            target=target,
            tau_T=tau_T,
            threshold=threshold,
            ignore_index=ignore_index,
            reduce=reduce,
        )
        oracle: Oracle
        if regularization == "instance":
            oracle = InstanceOracle(
                pixels, moments, tau_I=tau_I, ignore_index=ignore_index, reduce=reduce
            )
        else:
            oracle = ClassOracle(moments, Z, tau_T=tau_T, tau_I=tau_I)
        prior = ANCHORS[constraint](Z, anchor) if anchor > 0 else None
        if prior is not None:
            oracle = AnchoredOracle(oracle, prior)
        trace = _Trace(moments, prior, callback)
        last, reason = descend(
            solve(Problem(oracle, CONSTRAINTS[constraint]()), Z, lr),
            iterations=iterations,
            # The gradient of Eq. 7 is a mean of unit features over tau_I, the prior's is lambda Z.
            least_residual=tolerance * (1 / tau_I + anchor),
            observe=trace,
        )
        if not bool(last.W.isfinite().all()):
            raise FloatingPointError(
                f"the prototypes are not finite: tau_I = {tau_I}, tau_T = {tau_T} or lr = {lr} is"
                f" too extreme for {str(last.W.dtype).removeprefix('torch.')}"
            )
        passes = oracle.passes
        if reason == "iterations":
            trace.record(last)
        return PrototypeFit(
            prototypes=last.W.to(text_protos.dtype),
            losses=torch.stack(trace.losses),
            gaps=torch.stack(trace.gaps),
            target_entropy=moments.entropy,
            passes=passes,
            stop_reason=reason,
            objectives=torch.stack(trace.objectives),
        )


def _pixels(
    features: Tensor | Iterable[Tensor | PixelChunk],
    targets: Tensor | None,
    weights: Tensor | None,
    label_masks: Tensor | None,
    chunk_size: int,
) -> Pixels:
    if isinstance(features, Tensor):
        return Pixels(PixelChunk(features, targets, weights, label_masks), chunk_size)
    if not isinstance(features, Iterable):
        raise TypeError(
            "features must be a (P, D) tensor, or an iterable of (p, D) tensors or PixelChunks;"
            f" got a {type(features).__name__}"
        )
    beside = {"targets": targets, "weights": weights, "label_masks": label_masks}
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise InputError(
            f"{' and '.join(given)} must travel with the features when these come in chunks:"
            " yield PixelChunk(features, targets, weights, label_masks)"
        )
    return Pixels(features, chunk_size)


def _compute_dtype(pixels: Pixels, text_protos: Tensor) -> torch.dtype:
    first = next(iter(pixels), None)
    if first is None:
        raise InputError(
            "features yields no chunk when it is read again, and each pass reads it anew: give a"
            " list, a generator, or an object whose __iter__ starts anew"
        )
    double = torch.float64 in (first.features.dtype, text_protos.dtype)
    return torch.float64 if double else torch.float32


class _Trace:
    """Keeps loss and gap of every iterate on the device, and asks the callback whether to stop."""

    def __init__(
        self,
        moments: TargetMoments,
        prior: Anchor | None,
        callback: Callable[[Iterate], bool | None] | None,
    ) -> None:
        self.losses: list[Tensor] = []
        self.gaps: list[Tensor] = []
        self.objectives: list[Tensor] = []
        self._moments = moments
        self._prior = prior
        self._callback = callback

    def record(self, point: Point) -> Iterate:
        W, objective = point.W, point.loss
        # sum_n T[p, n] x_p w_n, summed over the pixels, is <M, W>: the gap costs no pass.
        agreement = (self._moments.moment.double() * W.double()).sum() / self._moments.total
        loss = objective if self._prior is None else objective - self._prior.penalty(W)
        self.losses.append(loss)
        self.gaps.append(1 - agreement)
        self.objectives.append(objective)
        return Iterate(len(self.losses) - 1, W, loss, 1 - agreement, objective)

    def __call__(self, point: Point) -> bool | None:
        seen = self.record(point)
        return None if self._callback is None else self._callback(seen)
