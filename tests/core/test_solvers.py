"""Oracles against autograd, solvers against their published rules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin import fit_vision_prototypes, learn_vision_prototypes
from vpl_plugin.core.constraints import CONSTRAINTS, unit_rows
from vpl_plugin.core.descent import Problem, descend
from vpl_plugin.core.oracle import ClassOracle, InstanceOracle, Oracle, TargetMoments
from vpl_plugin.core.pixels import PixelChunk, Pixels
from vpl_plugin.core.solvers import SOLVERS


def problem(
    seed: int, pixels: int = 40, dim: int = 8, classes: int = 4
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    like = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(pixels, dim, **like) + 1
    text = unit_rows(torch.randn(classes, dim, **like))
    W = torch.randn(classes, dim, **like)
    targets = torch.rand(pixels, classes, **like).softmax(1)
    weights = torch.rand(pixels, **like)
    return features, text, W, targets, weights


def moments(pixels: Pixels, text: torch.Tensor) -> TargetMoments:
    return TargetMoments(pixels, text, tau_T=0.01, threshold=None, ignore_index=255)


@given(seed=st.integers(0, 1000), tau_I=st.floats(0.01, 1.0), chunk_size=st.integers(1, 50))
def test_instance_oracle_against_autograd_in_float64(
    seed: int, tau_I: float, chunk_size: int
) -> None:
    features, text, W, targets, weights = problem(seed)
    pixels = Pixels(PixelChunk(features, targets, weights), chunk_size)
    oracle = InstanceOracle(pixels, moments(pixels, text), tau_I=tau_I, ignore_index=255)
    loss, gradient = oracle(W)

    leaf = W.clone().requires_grad_()
    log_vision = (unit_rows(features) @ leaf.T / tau_I).log_softmax(1)
    expected = -(weights[:, None] * targets * log_vision).sum() / weights.sum()
    (expected_gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-9)


def test_instance_oracle_is_eq_7_with_the_targets_of_eq_5() -> None:
    features, text, W, _, _ = problem(3)
    pixels = Pixels(PixelChunk(features), 16)
    loss, gradient = InstanceOracle(pixels, moments(pixels, text), tau_I=0.03, ignore_index=255)(W)
    x = unit_rows(features)
    P_text = (x @ text.T / 0.01).softmax(1)
    P_vision = (x @ W.T / 0.03).softmax(1)
    torch.testing.assert_close(loss, -(P_text * P_vision.log()).sum(1).mean())
    torch.testing.assert_close(gradient, (P_vision - P_text).T @ x / (len(x) * 0.03))


@given(seed=st.integers(0, 1000), tau_I=st.floats(0.02, 1.0))
def test_class_oracle_against_autograd_in_float64(seed: int, tau_I: float) -> None:
    features, text, W, targets, _ = problem(seed)
    pixels = Pixels(PixelChunk(features, targets), 16)
    loss, gradient = ClassOracle(moments(pixels, text), text, tau_T=0.01, tau_I=tau_I)(W)

    leaf = W.clone().requires_grad_()
    # Pixel by pixel: the anchor of a pixel of class m is z_m for the text, w_m for the vision.
    P_text = (text @ text.T / 0.01).softmax(1)
    log_vision = (leaf @ leaf.T / tau_I).log_softmax(1)
    per_class = -(P_text * log_vision).sum(1)
    expected = (targets @ per_class).mean()
    (expected_gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-9)


def published_halving_rule(
    features: torch.Tensor,
    text: torch.Tensor,
    targets: torch.Tensor,
    lr: float,
    iterations: int,
    tau_I: float,
) -> torch.Tensor:
    """InMaP's update in its own notation: columns are classes, the gradient is a sum."""
    pseudo = features.T @ targets
    columns = text.T.clone()
    last = float("inf")
    for _ in range(iterations):
        summed = features.T @ F.softmax(features @ columns / tau_I, dim=1) - pseudo
        now = float(summed.norm())
        lr = lr / 2 if now > last else lr
        last = now
        columns = F.normalize(columns - lr / (len(features) * tau_I) * summed, dim=0)
    return columns.T


@pytest.mark.parametrize("seed", range(3))
def test_pgd_halving_is_the_published_rule_figure_for_figure(seed: int) -> None:
    features, text, _, targets, _ = problem(seed, pixels=200, dim=16)
    features = unit_rows(features)
    W = learn_vision_prototypes(
        features,
        text,
        0.03,
        targets=targets,
        solver="pgd_halving",
        lr=10.0,
        iterations=60,
        tolerance=0,
    )
    expected = published_halving_rule(features, text, targets, 10.0, 60, 0.03)
    torch.testing.assert_close(W, expected, atol=1e-9, rtol=0)


def test_pgd_is_eq_11_step_by_step() -> None:
    features, text, _, _, _ = problem(1)
    W = learn_vision_prototypes(
        features, text, 0.03, solver="pgd", lr=0.1, iterations=4, tolerance=0
    )
    pixels = Pixels(PixelChunk(features), 4096)
    oracle = InstanceOracle(pixels, moments(pixels, text), tau_I=0.03, ignore_index=255)
    expected = text
    for _ in range(4):
        expected = unit_rows(expected - 0.1 * oracle(expected)[1])
    torch.testing.assert_close(W, expected)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_apgd_reaches_what_a_small_step_reaches_in_many_more_passes(constraint: str) -> None:
    features, text, _, targets, _ = problem(5, pixels=400, dim=16)
    common = {"targets": targets, "constraint": constraint}
    slow = fit_vision_prototypes(
        features, text, 0.1, solver="pgd", lr=0.02, iterations=4000, tolerance=0, **common
    )
    fast = fit_vision_prototypes(
        features, text, 0.1, solver="apgd", iterations=200, tolerance=0, **common
    )
    assert fast.losses[-1] <= slow.losses[-1] + 1e-6
    assert fast.passes < slow.passes / 10


@pytest.mark.parametrize("solver", SOLVERS)
def test_tolerance_stops_at_a_stationary_point(solver: str) -> None:
    features, text, _, targets, _ = problem(2, pixels=200)
    fit = fit_vision_prototypes(
        features,
        text,
        0.1,
        targets=targets,
        solver=solver,
        lr=0.05,
        tolerance=2e-4,
    )
    assert fit.stop_reason == "tolerance"
    leaf = fit.prototypes.clone().requires_grad_()
    log_vision = (unit_rows(features) @ leaf.T / 0.1).log_softmax(1)
    (gradient,) = torch.autograd.grad(-(targets * log_vision).sum(1).mean(), leaf)
    W = leaf.detach()
    tangent = gradient - (gradient * W).sum(1, keepdim=True) * W
    assert tangent.norm() * 0.1 <= 2e-4 * (1 + 1e-6)


def test_one_pass_an_iteration_for_the_fixed_step_solvers() -> None:
    features, text, _, _, _ = problem(0)
    for solver in ("pgd", "pgd_halving"):
        fit = fit_vision_prototypes(
            features, text, solver=solver, lr=0.1, iterations=9, tolerance=0
        )
        assert fit.passes == 9


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_needs_nothing_but_the_oracle(solver: str) -> None:
    class Bowl:
        """A quadratic whose minimum over the sphere is known."""

        def __init__(self) -> None:
            self.passes = 0
            self.centre = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)

        def __call__(self, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.passes += 1
            return ((W - self.centre) ** 2).sum() / 2, W - self.centre

        def second_moment(self) -> torch.Tensor:
            return torch.eye(2, dtype=torch.float64)

    oracle: Oracle = Bowl()
    start = unit_rows(torch.tensor([[1.0, -1.0], [1.0, 0.1]], dtype=torch.float64))
    points = SOLVERS[solver](Problem(oracle, CONSTRAINTS["sphere"]()), start, lr=0.3)
    result, _ = descend(points, iterations=200)
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(result.W, expected, atol=1e-6, rtol=0)
