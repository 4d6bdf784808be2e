"""The paper's theory as diagnostics: Hypothesis 1, Proposition 1, Theorems 1 and 2."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.checks import (
    check_assignments,
    check_features_and_prototypes,
    check_fraction,
    check_positive,
    describe,
    value_range,
)
from vpl_plugin.core.constraints import compute_dtype, unit_rows
from vpl_plugin.errors import InputError

__all__ = [
    "DistributionBound",
    "GapLowerBound",
    "SpanSplit",
    "distribution_bound",
    "gap_lower_bound",
    "span_split",
    "suggest_tau_I",
]


class SpanSplit(NamedTuple):
    """Prototypes split against the span of the features (Eq. 4); all float64.

    Attributes:
        epsilon: (N,) in [0, 1], the share of each prototype's squared norm inside the span.
        in_span: (N, D), z^x, unit rows; zero where epsilon is 0 and there is no direction to give.
        orthogonal: (N, D), z^perp, unit rows; zero where epsilon is 1.
        rank: the dimension of the span kept.
    """

    epsilon: Tensor
    in_span: Tensor
    orthogonal: Tensor
    rank: int


class GapLowerBound(NamedTuple):
    """The least gap of Theorem 1, summed over the classes; 0-d float64 each.

    Attributes:
        orthogonal: what no prototype in the span can close (the paper's c_perp).
        alignment: what unit norm adds inside the span (the paper's alignment noise).
        total: their sum.
    """

    orthogonal: Tensor
    alignment: Tensor
    total: Tensor


class DistributionBound(NamedTuple):
    """Theorem 2, pixel by pixel, in nats; NaN where the pixel is ignored.

    Attributes:
        bound: (P,), what the theorem allows.
        measured: (P,), what the features and prototypes show; under the bound up to rounding.
    """

    bound: Tensor
    measured: Tensor


@torch.no_grad()
def span_split(
    prototypes: Tensor, features: Tensor, energy: float = 0.95, *, chunk_size: int = 16384
) -> SpanSplit:
    r"""Splits each prototype into what the features span and the rest (Eq. 4 of the VPL paper).

    .. math:: z_n = \sqrt{\epsilon_n} z_n^x + \sqrt{1 - \epsilon_n} z_n^\perp, \quad
              \|z_n^x\| = \|z_n^\perp\| = 1, \; z_n^x \perp z_n^\perp

    Taken literally, millions of noisy pixels span all D dimensions and every epsilon is 1. So the
    span is that of the leading eigenvectors of the second moment of the unit features, as few as
    hold the given share of its trace. It is not centred: the span of Eq. 4 holds the origin.

    Args:
        prototypes: (N, D), Z; put on the unit sphere first.
        features: (P, D) pixel features; put on the unit sphere first, a chunk at a time.
        energy: share of the trace in (0, 1] that the span holds. 1 is the literal span, every
            direction above rounding.
        chunk_size: pixels taken at a time.

    Returns:
        The split, in float64, since 1 - epsilon cancels.

    Raises:
        TypeError: features or prototypes are not floating point.
        InputError: shapes do not fit, devices differ, a row is not finite or zero, or energy is
            out of range.

    Example:
        >>> split = span_split(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        >>> split.epsilon, split.rank
        (tensor([0.3600], dtype=torch.float64), 1)
        >>> split.orthogonal
        tensor([[0., 1.]], dtype=torch.float64)
    """
    check_fraction("energy", energy)
    check_positive("energy", energy)
    check_features_and_prototypes(features, prototypes, chunk_size)
    dim = features.shape[1]
    moment = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
    for chunk in features.split(chunk_size):
        x = unit_rows(chunk.double())
        moment.addmm_(x.T, x)
    basis = _leading_eigenvectors(moment, energy)
    z = unit_rows(prototypes.double())
    inside = (z @ basis) @ basis.T
    outside = z - inside
    inside_norm = torch.linalg.vector_norm(inside, dim=1, keepdim=True)
    outside_norm = torch.linalg.vector_norm(outside, dim=1, keepdim=True)
    # A part whose square is lost beside 1 is rounding, and so is its direction.
    least = torch.finfo(torch.float64).eps ** 0.5
    in_span = torch.where(inside_norm < least, 0, inside / inside_norm)
    orthogonal = torch.where(outside_norm < least, 0, outside / outside_norm)
    # The squares sum to 1 up to rounding.
    epsilon = torch.where(outside_norm < least, 1, inside_norm.square().clamp_max(1))
    epsilon = torch.where(inside_norm < least, 0, epsilon)
    return SpanSplit(epsilon[:, 0], in_span, orthogonal, basis.shape[1])


def _leading_eigenvectors(moment: Tensor, energy: float) -> Tensor:
    """The fewest eigenvectors (D, r) that hold the given share of the trace."""
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(0), vectors.flip(1)
    rounding = values[0] * len(values) * torch.finfo(values.dtype).eps
    held = torch.where(values > rounding, values, 0).cumsum(0)
    rank = int((held < energy * held[-1]).sum()) + 1
    return vectors[:, :rank]


@torch.no_grad()
def suggest_tau_I(epsilon: Tensor, tau_T: float = 0.01) -> float:
    r"""The temperature of Proposition 1 of the VPL paper, from :func:`span_split`'s epsilon.

    Where z_n is sqrt(epsilon) w_n within the features' span, the text logit x z_n / tau_T is the
    vision logit x w_n / tau_I at

    .. math:: \tau_I = \tau_T / \sqrt{\epsilon}.

    The paper has one epsilon; each class has its own. What is common to the classes is the scale
    of the logits 1 / tau_I, so it is averaged: tau_I = tau_T / mean_n sqrt(epsilon_n).

    Args:
        epsilon: (N,) in [0, 1], not all 0.
        tau_T: CLIP's temperature, above 0.

    Returns:
        tau_I, at least tau_T.

    Raises:
        TypeError: epsilon is not a floating-point tensor.
        InputError: epsilon has a wrong shape or range or is all 0, or tau_T <= 0.

    Example:
        >>> round(suggest_tau_I(torch.tensor([0.25, 0.0625])), 6)
        0.026667
    """
    _check_epsilon(epsilon)
    check_positive("tau_T", tau_T)
    scale = float(epsilon.double().sqrt().mean())
    if scale == 0:
        raise InputError(
            "epsilon is 0 for every class: the prototypes share nothing with the features' span,"
            " and no temperature makes up for it"
        )
    return tau_T / scale


@torch.no_grad()
def gap_lower_bound(epsilon: Tensor) -> GapLowerBound:
    r"""The least gap between text prototypes and any prototypes in vision space (Theorem 1).

    For unit z_n split by Eq. 4 and a unit w_n in the span, z_perp is orthogonal to both z^x and
    w_n, and by the reverse triangle inequality no unit w_n is nearer to a vector of norm
    sqrt(epsilon) than 1 - sqrt(epsilon):

    .. math:: \|Z - W\|_F^2 = \sum_n (1 - \epsilon_n) + \|\sqrt{\epsilon_n} z_n^x - w_n\|^2
              \ge \sum_n \underbrace{(1 - \epsilon_n)}_{c_\perp}
              + \sum_n \underbrace{(1 - \sqrt{\epsilon_n})^2}_{\text{alignment}}
              = 2 \sum_n (1 - \sqrt{\epsilon_n}),

    with equality at w_n = z_n^x. The VPL paper's Eq. 6 leaves both terms as constants, and its
    epsilon there is the second one, not that of Eq. 4. In cosines: cos(z_n, w_n) <=
    sqrt(epsilon_n).

    Args:
        epsilon: (N,) in [0, 1], from :func:`span_split`.

    Returns:
        Both terms and their sum, of squared Euclidean distance.

    Raises:
        TypeError: epsilon is not a floating-point tensor.
        InputError: epsilon has a wrong shape or range.

    Example:
        >>> bound = gap_lower_bound(torch.tensor([0.25, 1.0]))
        >>> [float(term) for term in bound]
        [0.75, 0.25, 1.0]
    """
    _check_epsilon(epsilon)
    epsilon = epsilon.double()
    orthogonal = (1 - epsilon).sum()
    alignment = (1 - epsilon.sqrt()).square().sum()
    return GapLowerBound(orthogonal, alignment, orthogonal + alignment)


@torch.no_grad()
def distribution_bound(
    features: Tensor,
    prototypes: Tensor,
    assignments: Tensor,
    tau: float = 1.0,
    eta: float | None = None,
    *,
    ignore_index: int = 255,
    chunk_size: int = 16384,
) -> DistributionBound:
    r"""How far a pixel's class distribution can be from its class anchor's (Theorem 2).

    With P_i = softmax(x_i W^T / tau), P_m = softmax(w_m W^T / tau) and all ||w_n|| <= eta,

    .. math:: \max_j |\log P_{i,j} - \log P_{m,j}| \le \frac{2 \eta \|x_i - w_m\|}{\tau}.

    Each logit moves by at most eta ||x_i - w_m|| / tau, and the log-partition by no more than the
    logits do. Logarithms, since exp of this overflows at the temperatures in use.

    A finding on the theorem as the VPL paper prints it, exp(2 kappa) with kappa =
    2 eta ||x_i - w_m||: it has no temperature. Its exponent, 4 eta ||x_i - w_m||, is implied by
    the bound above for tau >= 1/2, twice as loose at tau = 1; at the smaller temperatures that
    CLIP and VPL use (0.01 and 0.03) it can fail, and the division by tau is needed.

    Args:
        features: (P, D) pixel features; put on the unit sphere first, a chunk at a time.
        prototypes: (N, D), W, taken as they are.
        assignments: (P,) integer classes m in [0, N), or ignore_index.
        tau: temperature, above 0.
        eta: bound of the prototypes' norms; None takes the largest.
        ignore_index: the index of pixels without a class; no class's own.
        chunk_size: pixels taken at a time.

    Returns:
        The bound and what is measured, float32, or float64 where either input is.

    Raises:
        TypeError: features or prototypes are not floating point, or assignments not integer.
        InputError: shapes do not fit, devices differ, a row is not finite or zero, an assignment
            is no class, no pixel counts, tau <= 0, or a prototype's norm exceeds eta.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> result = distribution_bound(features, torch.eye(2), torch.tensor([0, 0]))
        >>> result.bound, result.measured
        (tensor([0.0000, 1.7889]), tensor([0.0000, 0.7151]))
    """
    check_positive("tau", tau)
    check_features_and_prototypes(features, prototypes, chunk_size)
    check_assignments(assignments, features, len(prototypes), ignore_index)
    if eta is not None:
        _check_eta(eta, prototypes)
    dtype = compute_dtype(features, prototypes)
    W = prototypes.to(dtype)
    norm_bound = torch.linalg.vector_norm(W, dim=1).max() if eta is None else eta
    bounds, measured = [], []
    with torch.autocast(features.device.type, enabled=False):
        log_anchors = (W @ W.T / tau).log_softmax(dim=1)
        chunks = zip(features.split(chunk_size), assignments.split(chunk_size), strict=True)
        for chunk, classes in chunks:
            x = unit_rows(chunk.to(dtype))
            indices = classes.long()
            ignored = indices == ignore_index
            m = indices.masked_fill(ignored, 0)
            distance = torch.linalg.vector_norm(x - W[m], dim=1)
            log_ratio = (x @ W.T / tau).log_softmax(dim=1) - log_anchors[m]
            bounds.append((2 / tau * norm_bound * distance).masked_fill(ignored, torch.nan))
            measured.append(log_ratio.abs().amax(dim=1).masked_fill(ignored, torch.nan))
    return DistributionBound(torch.cat(bounds), torch.cat(measured))


def _check_epsilon(epsilon: object) -> None:
    """Shares (N,) of Eq. 4, in [0, 1]."""
    if not isinstance(epsilon, Tensor) or not epsilon.is_floating_point():
        raise TypeError(f"epsilon must be a floating-point torch.Tensor; got {describe(epsilon)}")
    if epsilon.ndim != 1 or len(epsilon) == 0:
        raise InputError(
            f"epsilon must have shape (N,), one share a prototype, N >= 1; got {describe(epsilon)}"
        )
    if not bool(((epsilon >= 0) & (epsilon <= 1)).all()):
        raise InputError(f"epsilon must lie in [0, 1]; the range is {value_range(epsilon)}")


def _check_eta(eta: float, prototypes: Tensor) -> None:
    """A bound of the prototypes' norms, up to the rounding of unit rows."""
    check_positive("eta", eta)
    largest = float(torch.linalg.vector_norm(prototypes, dim=1, dtype=torch.float64).max())
    if largest > eta * (1 + torch.finfo(prototypes.dtype).eps * prototypes.shape[1]):
        raise InputError(
            f"eta must bound the prototypes' norms, the largest of which is {largest:.4g};"
            f" got {eta!r}"
        )
