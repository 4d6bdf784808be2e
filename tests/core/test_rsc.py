"""The regional semantic contrast against literal loops over Eq. 12-13, and where it must hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.core.masked_pooling import (
    masked_average_pooling,
    present_activation,
)
from vpl_plugin.core.rsc import MASKS, RSCLoss, region_similarity, rsc_loss


def problem(
    seed: int, images: int = 4, classes: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(images, 6, 3, 2, generator=generator, dtype=dtype)
    prototypes = torch.randn(classes, 6, generator=generator, dtype=dtype)
    labels = torch.rand(images, classes, generator=generator) < 0.4
    return embeddings, prototypes, labels


def literal_cosine(
    embeddings: torch.Tensor, prototypes: torch.Tensor, i: int, n: int, relu: bool
) -> float:
    """cos(P_{i,n}, W_n) of Eq. 12, one number at a time; 0 for an empty mask."""
    dim, height, width = embeddings.shape[1:]
    w = prototypes[n].tolist()
    mass, pooled = 0.0, [0.0] * dim
    for h in range(height):
        for s in range(width):
            v = embeddings[i, :, h, s].tolist()
            a = sum(x * y for x, y in zip(w, v, strict=True))
            a = max(a, 0.0) if relu else a
            mass += a
            pooled = [p + a * x for p, x in zip(pooled, v, strict=True)]
    if mass == 0:
        return 0.0
    pooled = [p / mass for p in pooled]
    dot = sum(x * y for x, y in zip(pooled, w, strict=True))
    return dot / (math.hypot(*pooled) * math.hypot(*w))


def literal_eq_13(
    embeddings: torch.Tensor,
    prototypes: torch.Tensor,
    classes: list[int],
    tau: float,
    relu: bool,
) -> float:
    B = len(classes)
    S = [
        [literal_cosine(embeddings, prototypes, i, classes[j], relu) for j in range(B)]
        for i in range(B)
    ]
    loss = 0.0
    for i in range(B):
        rows = sum(math.exp(S[i][j] / tau) for j in range(B))
        columns = sum(math.exp(S[j][i] / tau) for j in range(B))
        loss -= math.log(math.exp(S[i][i] / tau) / rows) / (2 * B)
        loss -= math.log(math.exp(S[i][i] / tau) / columns) / (2 * B)
    return loss


def literal_multi_label(
    embeddings: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor, tau: float
) -> float:
    entries = [tuple(pair) for pair in labels.nonzero().tolist()]
    loss = 0.0
    for e, (i, n) in enumerate(entries):
        own = math.exp(literal_cosine(embeddings, prototypes, i, n, True) / tau)
        rows = columns = own
        for f, (j, m) in enumerate(entries):
            if f != e and not labels[i, m]:
                rows += math.exp(literal_cosine(embeddings, prototypes, i, m, True) / tau)
            if f != e and not labels[j, n]:
                columns += math.exp(literal_cosine(embeddings, prototypes, j, n, True) / tau)
        loss -= (math.log(own / rows) + math.log(own / columns)) / (2 * len(entries))
    return loss


@given(seed=st.integers(0, 1000), tau=st.floats(0.03, 2.0), activation=st.booleans())
def test_one_class_an_image_is_eq_13_to_the_letter(seed: int, tau: float, activation: bool) -> None:
    embeddings, prototypes, _ = problem(seed)
    classes = torch.randperm(5, generator=torch.Generator().manual_seed(seed))[:4]
    labels = torch.nn.functional.one_hot(classes, 5)
    expected = literal_eq_13(embeddings, prototypes, classes.tolist(), tau, activation)
    loss = rsc_loss(
        embeddings, prototypes, labels, tau=tau, activation="relu" if activation else "none"
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 1000), tau=st.floats(0.03, 2.0))
def test_multi_label_is_the_loop_over_entries(seed: int, tau: float) -> None:
    embeddings, prototypes, labels = problem(seed)
    labels[0, 0] = True
    expected = literal_multi_label(embeddings, prototypes, labels, tau)
    loss = rsc_loss(embeddings, prototypes, labels, tau=tau)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_class_present_in_both_images_is_no_negative() -> None:
    embeddings, prototypes, _ = problem(0)
    labels = torch.zeros(4, 5)
    labels[:, 2] = 1
    assert float(rsc_loss(embeddings, prototypes, labels)) == 0


@given(seed=st.integers(0, 1000))
def test_order_of_images_and_of_classes_does_not_matter(seed: int) -> None:
    embeddings, prototypes, labels = problem(seed)
    images = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    classes = torch.randperm(5, generator=torch.Generator().manual_seed(seed + 1))
    loss = rsc_loss(embeddings, prototypes, labels)
    permuted = rsc_loss(embeddings[images], prototypes[classes], labels[images][:, classes])
    torch.testing.assert_close(permuted, loss)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e2))
def test_rotation_and_scale_do_not_matter(seed: int, scale: float) -> None:
    embeddings, prototypes, labels = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    turned = torch.einsum("cd,bdhw->bchw", Q, embeddings)
    loss = rsc_loss(embeddings, prototypes, labels)
    torch.testing.assert_close(rsc_loss(scale * turned, prototypes @ Q.T, labels), loss)


@given(seed=st.integers(0, 1000))
def test_a_class_that_no_image_has_does_not_matter(seed: int) -> None:
    embeddings, prototypes, labels = problem(seed)
    labels[:, 4] = False
    torch.testing.assert_close(
        rsc_loss(embeddings, prototypes, labels),
        rsc_loss(embeddings, prototypes[:4], labels[:, :4]),
    )


def test_descent_tells_the_regions_apart() -> None:
    embeddings, prototypes, _ = problem(5)
    labels = torch.eye(5, dtype=torch.bool)[:4]
    before = region_similarity(embeddings, prototypes)
    leaf = embeddings.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.05)
    first = rsc_loss(leaf, prototypes, labels)
    for _ in range(60):
        optimizer.zero_grad()
        rsc_loss(leaf, prototypes, labels).backward()
        optimizer.step()
    assert rsc_loss(leaf, prototypes, labels) < 0.2 * first
    after = region_similarity(leaf.detach(), prototypes)
    margin_before = before[labels].mean() - before[~labels].mean()
    assert after[labels].mean() - after[~labels].mean() > margin_before + 0.2


def literal_options(
    embeddings: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor, inside: torch.Tensor
) -> float:
    """Masks of present classes and one background row, about the mean, areas of 0.2 and more."""
    rows = labels.clone()
    rows[:, -1] = True
    masks = present_activation(embeddings, prototypes, rows) * inside[:, None]
    areas = masks.sum((2, 3)) / inside.sum((1, 2))[:, None]
    mean = torch.stack([embeddings[i, :, h, w] for i, h, w in inside.nonzero().tolist()]).mean(0)
    regions = masked_average_pooling(embeddings, masks) - mean
    S = torch.cosine_similarity(regions, (prototypes - prototypes.mean(0))[None], dim=2)
    entries = [(i, n) for i, n in labels.nonzero().tolist() if areas[i, n] >= 0.2]
    loss = 0.0
    for i, n in entries:
        own = rows_sum = columns_sum = math.exp(S[i, n] / 0.3)
        for j, m in entries:
            rows_sum += 0 if labels[i, m] else math.exp(S[i, m] / 0.3)
            columns_sum += 0 if labels[j, n] else math.exp(S[j, n] / 0.3)
        loss -= (math.log(own / rows_sum) + math.log(own / columns_sum)) / (2 * len(entries))
    return loss


@given(seed=st.integers(0, 1000))
def test_the_options_are_the_loop_over_entries(seed: int) -> None:
    embeddings, prototypes, labels = problem(seed)
    labels[:, -1] = False
    inside = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(seed)) < 0.7
    inside[:, 0, 0] = True
    loss = rsc_loss(
        embeddings, prototypes, labels, tau=0.3, inside=inside, **BETTER, least_area=0.2
    )
    expected = literal_options(embeddings, prototypes, labels, inside)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


BETTER: dict[str, Any] = {"activation": "present", "centred": True, "num_background": 1}


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_about_the_mean_what_all_share_does_not_matter(seed: int, shift: float) -> None:
    """Of the embeddings, with masks that do not move along, and of the prototypes."""
    embeddings, prototypes, labels = problem(seed)
    # Across the prototypes, so that no activation changes.
    embeddings[:, 0], prototypes[:, 0] = 0, 0
    loss = rsc_loss(embeddings, prototypes, labels, centred=True)
    embeddings[:, 0] = shift
    torch.testing.assert_close(rsc_loss(embeddings, prototypes, labels, centred=True), loss)
    literal = rsc_loss(embeddings, prototypes, labels)
    assert loss == 0 or shift == 0 or not math.isclose(float(literal), float(loss))


def test_about_the_mean_the_gradient_leaves_the_mean_alone() -> None:
    embeddings, prototypes, labels = problem(1)
    embeddings.requires_grad_()
    loss = rsc_loss(embeddings, prototypes, labels, detach_masks=True, **BETTER)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient.sum((0, 2, 3)), torch.zeros(6, dtype=torch.float64))


@given(seed=st.integers(0, 1000), activation=st.sampled_from(MASKS), centred=st.booleans())
def test_padding_does_not_matter_and_gets_no_gradient(
    seed: int, activation: str, centred: bool
) -> None:
    embeddings, prototypes, labels = problem(seed)
    inside = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(seed)) < 0.6
    options: dict[str, Any] = {"activation": activation, "centred": centred, "inside": inside}
    padded = embeddings.clone().requires_grad_()
    loss = rsc_loss(padded, prototypes, labels, **options)
    (gradient,) = torch.autograd.grad(loss, padded)
    assert (gradient.movedim(1, -1)[~inside] == 0).all()
    other = torch.where(inside[:, None], embeddings, 1e3 * torch.randn_like(embeddings))
    torch.testing.assert_close(rsc_loss(other, prototypes, labels, **options), loss.detach())


def test_without_gradient_through_the_masks_it_is_the_loss_of_fixed_masks() -> None:
    embeddings, prototypes, labels = problem(2)
    leaf = embeddings.clone().requires_grad_()
    loss = rsc_loss(leaf, prototypes, labels, activation="softmax", detach_masks=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    whole = rsc_loss(leaf, prototypes, labels, activation="softmax")
    torch.testing.assert_close(loss, whole)
    (of_whole,) = torch.autograd.grad(whole, leaf)
    assert (gradient - of_whole).abs().max() > 1e-4
    # Regions are linear in embeddings under fixed masks, so nothing moves where a mask is empty.
    masks = torch.zeros(4, 5, 3, 2, dtype=torch.float64)
    masks[..., 0, 0] = 1
    assert masked_average_pooling(embeddings, masks).equal(
        embeddings[:, :, 0, 0][:, None].expand(-1, 5, -1)
    )


def test_a_class_below_the_least_area_is_neither_entry_nor_negative() -> None:
    """Images of one position, which is the mask of the class it answers."""
    embeddings = 50 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])[:, :, None, None]
    prototypes = torch.eye(2)
    labels = torch.tensor([[1, 0], [0, 1], [1, 1]])
    options: dict[str, Any] = {"activation": "softmax", "tau": 1.0}
    loss = rsc_loss(embeddings, prototypes, labels, least_area=0.2, **options)
    # The third image shows the second class alone. It lacks neither, so the first is no negative.
    cosines = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    first = torch.tensor([(1 + 2 * math.exp(-1)), (1 + math.exp(-1))]).log().sum()
    second = torch.tensor([1 + math.exp(-1), 1 + math.exp(-1)]).log().sum()
    third = math.log(1 + math.exp(cosines[0, 1] - 0.8))
    torch.testing.assert_close(loss, (first + second + third) / 6)
    assert loss != rsc_loss(embeddings, prototypes, labels, **options)
    assert rsc_loss(embeddings[2:], prototypes, labels[2:], least_area=1.0, **options) == 0


def test_the_options_in_float64() -> None:
    embeddings, prototypes, labels = problem(1, images=3)
    embeddings.requires_grad_()
    prototypes.requires_grad_()
    inside = torch.ones(3, 3, 2)
    inside[0, 0] = 0
    assert torch.autograd.gradcheck(
        lambda V, W: rsc_loss(V, W, labels, tau=0.3, inside=inside, **BETTER),
        (embeddings, prototypes),
    )


@pytest.mark.parametrize("activation", MASKS)
def test_gradients_in_float64(activation: str) -> None:
    embeddings, prototypes, labels = problem(1, images=3)
    if activation == "none":
        # Away from the pole of the literal form, where its masks sum to zero.
        embeddings, prototypes = embeddings.abs(), prototypes.abs()
    embeddings.requires_grad_()
    prototypes.requires_grad_()
    assert labels.any()
    assert torch.autograd.gradcheck(
        lambda V, W: rsc_loss(V, W, labels, tau=0.3, activation=activation),
        (embeddings, prototypes),
    )


def no_label() -> tuple[torch.Tensor, ...]:
    embeddings, prototypes, labels = problem(0)
    return embeddings, prototypes, torch.zeros_like(labels)


def every_label() -> tuple[torch.Tensor, ...]:
    embeddings, prototypes, labels = problem(0)
    return embeddings, prototypes, torch.ones_like(labels)


def empty_masks() -> tuple[torch.Tensor, ...]:
    embeddings, prototypes, labels = problem(0)
    return torch.zeros_like(embeddings), prototypes, labels


def some_empty_masks() -> tuple[torch.Tensor, ...]:
    embeddings, prototypes, labels = problem(0)
    embeddings, prototypes = embeddings.abs(), prototypes.abs()
    prototypes[2] *= -1
    return embeddings, prototypes, labels


def zero_prototype() -> tuple[torch.Tensor, ...]:
    embeddings, prototypes, labels = problem(0)
    prototypes[1] = 0
    return embeddings, prototypes, labels


DEGENERATE = {
    "no label": (no_label, 0.0),
    "every label": (every_label, 0.0),
    "one image": (lambda: problem(0, images=1), 0.0),
    "one class": (lambda: problem(0, classes=1), None),
    "one image, one class": (lambda: problem(0, images=1, classes=1), 0.0),
    "no image": (lambda: problem(0, images=0), 0.0),
    "empty masks": (empty_masks, None),
    "some empty masks": (some_empty_masks, None),
    "zero prototype": (zero_prototype, None),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("activation", "centred"), [*((a, False) for a in MASKS), ("present", True)]
)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batches_stay_finite(
    case: str, activation: str, centred: bool, dtype: torch.dtype
) -> None:
    make, expected = DEGENERATE[case]
    embeddings, prototypes, labels = make()
    embeddings = embeddings.to(dtype).requires_grad_()
    prototypes = prototypes.to(dtype).requires_grad_()
    loss = rsc_loss(embeddings, prototypes, labels, activation=activation, centred=centred)
    loss.backward()
    loss = loss.detach()
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss >= 0
    for gradient in (embeddings.grad, prototypes.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        if expected is not None:
            assert (gradient == 0).all()
    if expected is not None:
        assert float(loss) == expected


@pytest.mark.parametrize("tau", [1e-3, 0.07, 1e3])
def test_extreme_temperatures_stay_finite(tau: float) -> None:
    embeddings, prototypes, labels = problem(2, dtype=torch.float32)
    embeddings.requires_grad_()
    loss = rsc_loss(embeddings, prototypes, labels, tau=tau)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    embeddings, prototypes, labels = problem(3, dtype=torch.float32)
    embeddings = embeddings.bfloat16().requires_grad_()
    expected = rsc_loss(embeddings, prototypes, labels)
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = rsc_loss(embeddings, prototypes, labels)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


def test_frozen_prototypes_get_no_gradient_and_trained_ones_do() -> None:
    embeddings, prototypes, labels = problem(4)
    embeddings.requires_grad_()
    rsc_loss(embeddings, prototypes, labels).backward()
    assert prototypes.grad is None
    prototypes.requires_grad_()
    rsc_loss(embeddings, prototypes, labels).backward()
    assert prototypes.grad is not None
    assert prototypes.grad.norm() > 0


def test_labels_of_any_kind_agree() -> None:
    embeddings, prototypes, labels = problem(6)
    expected = rsc_loss(embeddings, prototypes, labels)
    for dtype in (torch.uint8, torch.int64, torch.float32):
        torch.testing.assert_close(rsc_loss(embeddings, prototypes, labels.to(dtype)), expected)


def test_no_value_is_read_on_the_host() -> None:
    # vmap refuses every operation that reads a value or whose shape depends on one.
    problems = [problem(seed) for seed in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*problems, strict=True)]
    losses = torch.func.vmap(rsc_loss)(*stacked)
    expected = torch.stack([rsc_loss(*parts) for parts in problems])
    torch.testing.assert_close(losses, expected)


def test_module_is_the_function() -> None:
    embeddings, prototypes, labels = problem(7)
    module = RSCLoss(tau=0.2, activation="softmax")
    torch.testing.assert_close(
        module(embeddings, prototypes, labels),
        rsc_loss(embeddings, prototypes, labels, tau=0.2, activation="softmax"),
    )
    assert repr(module) == "RSCLoss(tau=0.2, activation='softmax')"
    module = RSCLoss(centred=True, activation="present", num_background=2)
    inside = torch.eye(3)[:, :2].expand(4, -1, -1)
    torch.testing.assert_close(
        module(embeddings, prototypes, labels, inside),
        rsc_loss(
            *(embeddings, prototypes, labels),
            **{**BETTER, "num_background": 2},
            inside=inside,
        ),
    )
    shown = "tau=0.07, activation='present', centred=True, num_background=2"
    assert repr(module) == f"RSCLoss({shown})"


def test_bad_input_is_named() -> None:
    embeddings, prototypes, labels = problem(0)
    with pytest.raises(ValueError, match=r"embeddings must have shape \(B, D, H, W\); got rank 3"):
        rsc_loss(embeddings[0], prototypes, labels)
    with pytest.raises(ValueError, match="must agree in D; got D = 6 and D = 5"):
        rsc_loss(embeddings, prototypes[:, :5], labels)
    with pytest.raises(ValueError, match=r"labels must be multi-hot of shape \(4, 3\)"):
        rsc_loss(embeddings, prototypes[:3], labels)
    with pytest.raises(ValueError, match=r"labels must be multi-hot .* got a int64 tensor of shap"):
        rsc_loss(embeddings, prototypes, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(TypeError, match="labels must be a bool, integer or float"):
        rsc_loss(embeddings, prototypes, labels.tolist())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prototypes must be floating point"):
        rsc_loss(embeddings, prototypes.long(), labels)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau must be a finite number above 0"):
            rsc_loss(embeddings, prototypes, labels, tau=tau)
    with pytest.raises(ValueError, match="tau must be a finite number above 0"):
        RSCLoss(tau=0)
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        RSCLoss(activation="gelu")
    with pytest.raises(ValueError, match=r"least_area needs masks in \[0, 1\]"):
        RSCLoss(least_area=0.1)
    with pytest.raises(ValueError, match="num_background must be a whole number, 0 or more"):
        RSCLoss(num_background=-1)
    with pytest.raises(ValueError, match=r"inside must have shape \(4, 3, 2\)"):
        rsc_loss(embeddings, prototypes, labels, inside=torch.ones(4, 2, 3))


def test_mixed_devices_are_named() -> None:
    embeddings, prototypes, labels = problem(0)
    with pytest.raises(ValueError, match="prototypes and embeddings must be on one device"):
        rsc_loss(embeddings, prototypes.to("meta"), labels)
    with pytest.raises(ValueError, match="labels and embeddings must be on one device"):
        rsc_loss(embeddings, prototypes, labels.to("meta"))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softmax"])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype, activation: str) -> None:
    embeddings, prototypes, labels = problem(8, dtype=torch.float32)
    embeddings = embeddings.to(dtype).requires_grad_()
    expected = rsc_loss(embeddings, prototypes, labels, activation=activation)
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    moved = embeddings.detach().to(cuda).requires_grad_()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = rsc_loss(moved, prototypes.to(cuda), labels.to(cuda), activation=activation)
    (gradient,) = torch.autograd.grad(loss, moved)
    torch.testing.assert_close(loss.cpu(), expected, atol=1e-5, rtol=1e-4)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient.cpu(), expected_gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.cuda
def test_cuda_never_waits_for_the_host(cuda: torch.device) -> None:
    embeddings, prototypes, labels = (part.to(cuda) for part in problem(9, dtype=torch.float32))
    embeddings.requires_grad_()
    rsc_loss(embeddings, prototypes, labels).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rsc_loss(embeddings, prototypes, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
