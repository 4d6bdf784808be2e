"""Eq. 4, Proposition 1 and Theorems 1 and 2, as properties that must hold."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.core.constraints import unit_rows
from vpl_plugin.core.theory import (
    distribution_bound,
    gap_lower_bound,
    span_split,
    suggest_tau_I,
)


def rows(seed: int, count: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def low_rank(seed: int, count: int, dim: int, rank: int) -> torch.Tensor:
    return rows(seed, count, rank) @ rows(seed + 1, rank, dim)


def rotation(seed: int, dim: int) -> torch.Tensor:
    return torch.linalg.qr(rows(seed, dim, dim))[0]


@given(seed=st.integers(0, 1000), energy=st.floats(0.05, 1.0), rank=st.integers(1, 8))
def test_split_puts_the_prototype_together_again(seed: int, energy: float, rank: int) -> None:
    prototypes = rows(seed + 2, 5, 8)
    split = span_split(prototypes, low_rank(seed, 30, 8, rank), energy)
    assert ((split.epsilon >= 0) & (split.epsilon <= 1)).all()
    assert 1 <= split.rank <= rank
    epsilon = split.epsilon[:, None]
    again = epsilon.sqrt() * split.in_span + (1 - epsilon).sqrt() * split.orthogonal
    torch.testing.assert_close(again, unit_rows(prototypes), atol=1e-7, rtol=0)
    torch.testing.assert_close(split.in_span.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(
        split.orthogonal.norm(dim=1), torch.full((5,), float(split.rank < 8), dtype=torch.float64)
    )
    products = (split.in_span @ split.orthogonal.T).abs()
    assert products.max() < 1e-10


@given(seed=st.integers(0, 1000), rank=st.integers(1, 7))
def test_the_whole_span_is_found_whatever_the_chunks(seed: int, rank: int) -> None:
    features = low_rank(seed, 30, 8, rank)
    prototypes = rows(seed + 2, 5, 8)
    split = span_split(prototypes, features, energy=1.0, chunk_size=7)
    assert split.rank == rank
    # An independent projection: least squares on the features themselves.
    z = unit_rows(prototypes)
    inside = (torch.linalg.pinv(features, rtol=1e-8) @ features @ z.T).T
    torch.testing.assert_close(split.epsilon, inside.square().sum(1), atol=1e-7, rtol=0)


@given(seed=st.integers(0, 1000))
def test_rotation_scale_and_order_leave_epsilon(seed: int) -> None:
    features, prototypes = rows(seed, 40, 6) + 1, rows(seed + 1, 4, 6)
    Q, order = rotation(seed, 6), torch.randperm(40)
    split = span_split(prototypes, features, 0.8)
    turned = span_split(2 * prototypes @ Q, (features * (1 + features[:, :1] ** 2) @ Q)[order], 0.8)
    assert turned.rank == split.rank
    torch.testing.assert_close(turned.epsilon, split.epsilon, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(turned.in_span, split.in_span @ Q, atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 1000))
def test_more_energy_never_takes_from_epsilon(seed: int) -> None:
    features, prototypes = rows(seed, 40, 6), rows(seed + 1, 4, 6)
    splits = [span_split(prototypes, features, energy) for energy in (0.3, 0.6, 0.9, 1.0)]
    for low, high in itertools.pairwise(splits):
        assert low.rank <= high.rank
        assert (low.epsilon <= high.epsilon + 1e-12).all()
    assert (splits[-1].epsilon == 1).all()


def test_energy_cuts_noise_that_spans_everything() -> None:
    noisy = low_rank(0, 500, 16, 3) + 1e-3 * rows(2, 500, 16)
    prototypes = rows(3, 4, 16)
    assert span_split(prototypes, noisy, energy=1.0).rank == 16
    split = span_split(prototypes, noisy, energy=0.999)
    clean = span_split(prototypes, low_rank(0, 500, 16, 3), energy=1.0)
    assert split.rank == clean.rank == 3
    torch.testing.assert_close(split.epsilon, clean.epsilon, atol=1e-3, rtol=0)


def test_prototypes_within_and_outside_the_span() -> None:
    features = torch.eye(4)[:2]
    split = span_split(torch.eye(4)[[0, 3]], features, energy=1.0)
    assert split.epsilon.tolist() == [1, 0]
    assert split.in_span.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert split.orthogonal.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_and_single_precision_are_split_in_float64(dtype: torch.dtype) -> None:
    features, prototypes = (rows(0, 40, 6) + 1).to(dtype), rows(1, 4, 6).to(dtype)
    split = span_split(prototypes, features)
    expected = span_split(prototypes.double(), features.double())
    torch.testing.assert_close(split, expected, atol=0, rtol=0)
    assert split.epsilon.dtype == torch.float64


@given(seed=st.integers(0, 1000), epsilon=st.floats(0.01, 1.0), tau_T=st.floats(0.005, 0.1))
def test_suggested_temperature_recovers_the_text_distribution(
    seed: int, epsilon: float, tau_T: float
) -> None:
    # Proposition 1: text prototypes sqrt(epsilon) w + sqrt(1 - epsilon) z_perp on features in
    # span(w) predict at tau_T what w predicts at tau_I.
    W = torch.zeros(3, 8, dtype=torch.float64)
    W[:, :4] = unit_rows(rows(seed, 3, 4))
    outside = torch.zeros(3, 8, dtype=torch.float64)
    outside[:, 4:] = unit_rows(rows(seed + 1, 3, 4))
    Z = math.sqrt(epsilon) * W + math.sqrt(1 - epsilon) * outside
    features = torch.zeros(20, 8, dtype=torch.float64)
    features[:, :4] = unit_rows(rows(seed + 2, 20, 4))
    tau_I = suggest_tau_I(span_split(Z, features, energy=1.0).epsilon, tau_T)
    assert tau_I >= tau_T * (1 - 1e-12)
    torch.testing.assert_close(
        (features @ W.T / tau_I).softmax(1), (features @ Z.T / tau_T).softmax(1)
    )


@given(seed=st.integers(0, 1000), rank=st.integers(1, 7))
def test_no_prototypes_in_the_span_go_below_the_bound(seed: int, rank: int) -> None:
    features, Z = low_rank(seed, 30, 8, rank), unit_rows(rows(seed + 2, 5, 8))
    split = span_split(Z, features, energy=1.0)
    bound = gap_lower_bound(split.epsilon)
    torch.testing.assert_close(bound.total, bound.orthogonal + bound.alignment)
    torch.testing.assert_close((Z - split.in_span).square().sum(), bound.total)
    for trial in range(5):
        W = unit_rows(rows(seed + trial, 5, 30) @ features)
        assert (Z - W).square().sum() >= bound.total - 1e-9
        near = unit_rows(split.in_span + 0.01 * W)
        assert (Z - near).square().sum() >= bound.total - 1e-9


def test_learned_prototypes_respect_the_bound() -> None:
    from vpl_plugin import learn_vision_prototypes

    features = low_rank(0, 60, 8, 3)
    Z = unit_rows(rows(2, 4, 8))
    bound = gap_lower_bound(span_split(Z, features, energy=1.0).epsilon)
    W = learn_vision_prototypes(features, Z, iterations=30)
    inside = unit_rows(W @ torch.linalg.pinv(features, rtol=1e-8) @ features)
    assert (Z - inside).square().sum() >= bound.total > 0


@given(
    seed=st.integers(0, 1000),
    tau=st.sampled_from([0.01, 0.03, 0.5, 1.0, 10.0]),
    norm=st.floats(0.1, 3.0),
    spread=st.floats(0.0, 2.0),
    room=st.floats(1.0, 4.0),
)
def test_measured_ratio_stays_within_the_bound(
    seed: int, tau: float, norm: float, spread: float, room: float
) -> None:
    prototypes = (
        norm
        * unit_rows(rows(seed, 5, 6))
        * torch.linspace(0.2, 1, 5, dtype=torch.float64).unsqueeze(1)
    )
    assignments = torch.arange(30) % 5
    features = prototypes[assignments] + spread * rows(seed + 1, 30, 6)
    result = distribution_bound(features, prototypes, assignments, tau)
    x = unit_rows(features)
    # Both sides of Theorem 2, pixel by pixel.
    for p in range(30):
        w_m = prototypes[assignments[p]]
        P_i = (prototypes @ x[p] / tau).log_softmax(0)
        P_m = (prototypes @ w_m / tau).log_softmax(0)
        torch.testing.assert_close(result.measured[p], (P_i - P_m).abs().max())
        eta = prototypes.norm(dim=1).max()
        torch.testing.assert_close(result.bound[p], 2 * eta * (x[p] - w_m).norm() / tau)
    assert (result.measured <= result.bound + 1e-9).all()
    wider = distribution_bound(features, prototypes, assignments, tau, eta=norm * room)
    torch.testing.assert_close(wider.measured, result.measured)
    assert (wider.bound >= result.bound * (1 - 1e-12)).all()


@pytest.mark.parametrize("eta", [1.0, 0.2, 0.01])
def test_the_constant_of_the_bound_cannot_be_smaller(eta: float) -> None:
    # A pixel opposite to its class, at a vanishing temperature: the ratio is 2 eta / tau, the
    # bound 2 eta (1 + eta) / tau.
    prototypes = torch.tensor([[eta, 0.0], [-eta, 0.0]], dtype=torch.float64)
    features = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    result = distribution_bound(features, prototypes, torch.tensor([0]), tau=1e-7)
    assert float(result.measured / result.bound) == pytest.approx(1 / (1 + eta))


def test_the_theorem_as_printed_fails_at_the_temperatures_in_use() -> None:
    angle = torch.tensor(0.1, dtype=torch.float64)
    features = torch.stack([angle.cos(), angle.sin()])[None]
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    printed = 4 * (features[0] - prototypes[0]).norm()
    for tau, holds in ((1.0, True), (0.5, True), (0.03, False)):
        result = distribution_bound(features, prototypes, torch.tensor([0]), tau)
        assert bool(result.measured <= printed) == holds
        assert bool(result.measured <= result.bound)


def test_ignored_pixels_have_no_bound() -> None:
    features, prototypes = rows(0, 6, 4), rows(1, 3, 4)
    assignments = torch.tensor([0, 255, 2, 1, 255, 0])
    result = distribution_bound(features, prototypes, assignments, chunk_size=4)
    kept = assignments != 255
    for values in result:
        assert torch.equal(values.isnan(), ~kept)
    alone = distribution_bound(features[kept], prototypes, assignments[kept])
    torch.testing.assert_close(result.bound[kept], alone.bound)
    torch.testing.assert_close(result.measured[kept], alone.measured)
    # 255 is -1 in int8.
    with pytest.raises(ValueError, match="row 1 is -1"):
        distribution_bound(features, prototypes, torch.where(kept, assignments, -1).to(torch.int8))


def test_bad_input_is_named() -> None:
    features, prototypes = rows(0, 6, 4), rows(1, 3, 4)
    assignments = torch.zeros(6, dtype=torch.long)
    for energy in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="energy must"):
            span_split(prototypes, features, energy)
    with pytest.raises(ValueError, match="same number of columns D"):
        span_split(prototypes[:, :3], features)
    with pytest.raises(ValueError, match=r"prototypes must have rows of non-zero norm.* row 1"):
        span_split(prototypes * torch.tensor([[1.0], [0.0], [1.0]]), features)
    for function in (suggest_tau_I, gap_lower_bound):
        with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\]; the range is \[-0.2"):
            function(torch.tensor([0.5, -0.2]))
        with pytest.raises(ValueError, match="epsilon must lie in"):
            function(torch.tensor([math.nan]))
        with pytest.raises(ValueError, match=r"epsilon must have shape \(N,\)"):
            function(torch.tensor(0.5))
        with pytest.raises(TypeError, match="epsilon must be a floating-point"):
            function(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon is 0 for every class"):
        suggest_tau_I(torch.zeros(3))
    with pytest.raises(ValueError, match="tau_T must be a finite number above 0"):
        suggest_tau_I(torch.ones(3), tau_T=0.0)
    with pytest.raises(ValueError, match="tau must be a finite number above 0"):
        distribution_bound(features, prototypes, assignments, tau=0.0)
    with pytest.raises(ValueError, match="eta must bound the prototypes' norms"):
        distribution_bound(features, prototypes, assignments, eta=0.01)
    with pytest.raises(ValueError, match="row 0 is 7"):
        distribution_bound(features, prototypes, torch.full((6,), 7))


def test_eta_of_one_takes_unit_rows_of_any_precision() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        prototypes = unit_rows(rows(0, 50, 64)).to(dtype)
        distribution_bound(prototypes, prototypes, torch.arange(50), eta=1.0)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype) -> None:
    features, prototypes = (rows(0, 60, 8) + 1).to(dtype), rows(1, 4, 8).to(dtype)
    assignments = torch.arange(60) % 4
    expected = span_split(prototypes, features)
    bound = distribution_bound(features, prototypes, assignments, tau=0.1)
    there = features.to(cuda), prototypes.to(cuda), assignments.to(cuda)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        split = span_split(there[1], there[0])
        result = distribution_bound(*there, tau=0.1)
    assert split.rank == expected.rank
    torch.testing.assert_close(split.epsilon.cpu(), expected.epsilon, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(split.in_span.cpu(), expected.in_span, atol=1e-8, rtol=1e-8)
    for actual, reference in zip(result, bound, strict=True):
        torch.testing.assert_close(actual.cpu(), reference, atol=1e-4, rtol=1e-4)
    lower, lower_here = gap_lower_bound(split.epsilon), gap_lower_bound(expected.epsilon)
    torch.testing.assert_close(lower.total.cpu(), lower_here.total)
