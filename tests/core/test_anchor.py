"""The prior at the text prototypes: Eq. 7 with lambda sum_n (1 - z_n w_n) added."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin import PixelChunk, fit_vision_prototypes, learn_vision_prototypes
from vpl_plugin.core.anchor import ANCHORS, AnchoredOracle
from vpl_plugin.core.constraints import CONSTRAINTS, unit_rows
from vpl_plugin.core.oracle import ClassOracle, InstanceOracle, TargetMoments
from vpl_plugin.core.pixels import Pixels
from vpl_plugin.core.solvers import SOLVERS

CLASSES, DIM = 5, 12


def problem(seed: int = 0, pixels: int = 200) -> tuple[torch.Tensor, ...]:
    """Unit features in clusters of a cone, text prototypes across a gap, soft targets, weights."""
    generator = torch.Generator().manual_seed(seed)
    like = {"generator": generator, "dtype": torch.float64}
    centres = torch.randn(CLASSES, DIM, **like)
    labels = torch.randint(CLASSES, (pixels,), generator=generator)
    features = unit_rows(centres[labels] + 0.7 * torch.randn(pixels, DIM, **like) + 1)
    text = unit_rows(centres + torch.randn(DIM, **like))
    targets = (4 * F.one_hot(labels, CLASSES) + torch.rand(pixels, CLASSES, **like)).softmax(1)
    return features, text, targets, torch.rand(pixels, **like)


def penalty(W: torch.Tensor, Z: torch.Tensor, anchor: float, constraint: str) -> torch.Tensor:
    if constraint == "sphere":
        return anchor * (1 - (Z * W).sum(1)).sum()
    return anchor / 2 * (W - Z).square().sum()


@given(
    seed=st.integers(0, 1000),
    anchor=st.floats(0, 10),
    tau_I=st.floats(0.02, 1),
    constraint=st.sampled_from(list(CONSTRAINTS)),
    regularization=st.sampled_from(["instance", "class"]),
)
def test_objective_and_gradient_against_autograd_in_float64(
    seed: int, anchor: float, tau_I: float, constraint: str, regularization: str
) -> None:
    features, Z, targets, weights = problem(seed, pixels=40)
    pixels = Pixels(PixelChunk(features, targets, weights), 16)
    moments = TargetMoments(pixels, Z, tau_T=0.1, threshold=None, ignore_index=255)
    inner = (
        InstanceOracle(pixels, moments, tau_I=tau_I, ignore_index=255)
        if regularization == "instance"
        else ClassOracle(moments, Z, tau_T=0.1, tau_I=tau_I)
    )
    oracle = AnchoredOracle(inner, ANCHORS[constraint](Z, anchor))
    generator = torch.Generator().manual_seed(seed + 1)
    W = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)
    objective, gradient = oracle(W)
    assert oracle.passes == 1

    leaf = W.clone().requires_grad_()
    if regularization == "instance":
        log_vision = (features @ leaf.T / tau_I).log_softmax(1)
        loss = -(weights[:, None] * targets * log_vision).sum() / weights.sum()
    else:
        text = (Z @ Z.T / 0.1).softmax(1)
        of_class = -(text * (leaf @ leaf.T / tau_I).log_softmax(1)).sum(1)
        loss = (weights[:, None] * targets).sum(0) @ of_class / weights.sum()
    expected = loss + penalty(leaf, Z, anchor, constraint)
    (expected_gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(objective, expected.detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_trace_gives_loss_and_objective_apart(solver: str, constraint: str) -> None:
    features, Z, targets, _ = problem()
    fit = fit_vision_prototypes(
        features,
        Z,
        0.1,
        targets=targets,
        solver=solver,
        constraint=constraint,
        lr=0.05,
        anchor=0.7,
        iterations=8,
        tolerance=0,
    )
    assert fit.objectives.shape == fit.losses.shape == (9,)
    W = fit.prototypes
    loss = -(targets * (features @ W.T / 0.1).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(fit.losses[-1], loss)
    torch.testing.assert_close(fit.objectives[-1], loss + penalty(W, Z, 0.7, constraint))
    torch.testing.assert_close(fit.losses[0], fit.objectives[0])
    assert fit.objectives[-1] < fit.objectives[0]


def test_without_a_prior_objective_and_loss_are_one() -> None:
    features, Z, targets, _ = problem()
    fit = fit_vision_prototypes(features, Z, targets=targets)
    zero = fit_vision_prototypes(features, Z, targets=targets, anchor=0)
    assert torch.equal(fit.objectives, fit.losses)
    assert torch.equal(zero.prototypes, fit.prototypes)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_minimiser_is_stationary_and_nearer_to_the_text_the_larger_the_anchor(
    constraint: str,
) -> None:
    features, Z, targets, _ = problem()
    distances = []
    for anchor in (0.0, 0.1, 1.0, 10.0, 1e6):
        W = learn_vision_prototypes(
            features, Z, 0.1, targets=targets, constraint=constraint, anchor=anchor, tolerance=1e-7
        )
        leaf = W.clone().requires_grad_()
        loss = -(targets * (features @ leaf.T / 0.1).log_softmax(1)).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss + penalty(leaf, Z, anchor, constraint), leaf)
        residual = CONSTRAINTS[constraint]().residual(W, gradient)
        assert residual <= 1.01e-7 * (1 / 0.1 + anchor)
        distances.append(float((W - Z).norm()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4


def test_an_infinite_pull_gives_the_text_prototypes_in_float32() -> None:
    features, Z, targets, _ = problem()
    W = learn_vision_prototypes(
        features.float(), Z.float(), targets=targets.float(), anchor=1e8, tolerance=1e-6
    )
    torch.testing.assert_close(W, Z.float(), atol=1e-5, rtol=0)


def test_a_class_without_pixels_stays_at_its_text_prototype() -> None:
    features, Z, targets, _ = problem()
    labels = targets.argmax(1).clamp_min(1)
    options = {"targets": labels, "tolerance": 1e-7}
    anchored = learn_vision_prototypes(features, Z, 0.1, anchor=0.1, **options)
    free = learn_vision_prototypes(features, Z, 0.1, **options)
    cosine = (anchored * Z).sum(1)
    # Nothing but the prior pulls on it from above: it gives way to the other classes only.
    assert cosine[0] > (free * Z).sum(1)[0]
    assert cosine[0] > 0.5


@given(seed=st.integers(0, 50), solver=st.sampled_from(list(SOLVERS)))
def test_rotation_and_order_do_not_matter(seed: int, solver: str) -> None:
    features, Z, targets, _ = problem(seed, pixels=60)
    options = {"solver": solver, "lr": 0.02, "iterations": 10, "tolerance": 0, "anchor": 0.3}
    W = learn_vision_prototypes(features, Z, targets=targets, **options)
    generator = torch.Generator().manual_seed(seed)
    R = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))[0]
    rotated = learn_vision_prototypes(features @ R, Z @ R, targets=targets, **options)
    torch.testing.assert_close(rotated, W @ R, atol=1e-7, rtol=0)
    order = torch.randperm(CLASSES, generator=generator)
    permuted = learn_vision_prototypes(features, Z[order], targets=targets[:, order], **options)
    torch.testing.assert_close(permuted, W[order], atol=1e-7, rtol=0)


@given(chunk_size=st.integers(1, 70), constraint=st.sampled_from(list(CONSTRAINTS)))
def test_chunks_and_streams_do_not_matter(chunk_size: int, constraint: str) -> None:
    features, Z, targets, weights = problem(pixels=60)
    options = {"constraint": constraint, "anchor": 0.3, "iterations": 10, "tolerance": 0}
    whole = learn_vision_prototypes(features, Z, targets=targets, weights=weights, **options)
    chunks = [
        PixelChunk(features[rows], targets[rows], weights[rows])
        for rows in torch.arange(60).split(25)
    ]
    streamed = learn_vision_prototypes(chunks, Z, chunk_size=chunk_size, **options)
    torch.testing.assert_close(streamed, whole, atol=1e-7, rtol=0)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    # The data term is a mean: the prior weighs as much whatever the weights add up to.
    features, Z, targets, weights = problem()
    options = {"targets": targets, "anchor": 0.5}
    torch.testing.assert_close(
        learn_vision_prototypes(features, Z, weights=1000 * weights, **options),
        learn_vision_prototypes(features, Z, weights=weights, **options),
    )


def test_half_precision_features_are_computed_in_float32() -> None:
    features, Z, targets, _ = problem()
    half, Z = features.half(), Z.float()
    options = {"targets": targets.float(), "anchor": 0.3, "iterations": 30}
    torch.testing.assert_close(
        learn_vision_prototypes(half, Z, **options),
        learn_vision_prototypes(half.float(), Z, **options),
    )


def test_apgd_needs_no_more_passes_with_a_prior() -> None:
    # Classes that overlap, and seeds of which a third are wrong, as those of photographs.
    passes = {0.0: 0, 0.1: 0, 1.0: 0}
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        centres = unit_rows(torch.randn(20, 64, generator=generator))
        cone = 2 * unit_rows(torch.randn(1, 64, generator=generator))
        labels = torch.randint(20, (2000,), generator=generator)
        noise = 2 * unit_rows(torch.randn(2000, 64, generator=generator))
        features = cone + centres[labels] + noise
        text = 0.5 * centres + unit_rows(torch.randn(1, 64, generator=generator))
        wrong = torch.rand(2000, generator=generator) < 0.3
        seeds = torch.where(wrong, torch.randint(20, (2000,), generator=generator), labels)
        for anchor in passes:
            passes[anchor] += fit_vision_prototypes(
                features, text, targets=seeds, anchor=anchor
            ).passes
    assert max(passes[0.1], passes[1.0]) <= passes[0.0]


@pytest.mark.parametrize("anchor", [-0.1, float("nan"), float("inf"), "0.1"])
def test_bad_input_is_named_before_any_work(anchor: object) -> None:
    features, Z, _, _ = problem()
    calls: list[object] = []
    with pytest.raises(ValueError, match="anchor must be a finite number, 0 or more; got"):
        learn_vision_prototypes(features, Z, anchor=anchor, callback=calls.append)
    assert not calls


@pytest.mark.cuda
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_cuda_gives_what_the_cpu_gives(cuda: torch.device, constraint: str) -> None:
    features, Z, targets, _ = (part.float() for part in problem(pixels=2000))
    options = {"constraint": constraint, "anchor": 0.1, "iterations": 30, "tolerance": 0}
    on_cpu = learn_vision_prototypes(features, Z, targets=targets, **options)
    on_cuda = learn_vision_prototypes(
        features.to(cuda), Z.to(cuda), targets=targets.to(cuda), **options
    )
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=2e-4, rtol=0)
