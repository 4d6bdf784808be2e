"""Masks and pooled embeddings against loops over Eq. 12, and where a mask is empty."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.core.masked_pooling import (
    ACTIVATIONS,
    class_activation,
    masked_average_pooling,
    present_activation,
)


def maps(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(3, 5, 4, 2, generator=generator, dtype=dtype)
    return embeddings, torch.randn(4, 5, generator=generator, dtype=dtype)


@given(seed=st.integers(0, 1000))
def test_pooling_is_a_loop_over_eq_12(seed: int) -> None:
    embeddings, prototypes = maps(seed)
    raw = class_activation(embeddings, prototypes, "none")
    masks = raw.sigmoid()
    pooled = masked_average_pooling(embeddings, masks)
    for i in range(3):
        for n in range(4):
            top, bottom = torch.zeros(5, dtype=torch.float64), 0.0
            for h in range(4):
                for w in range(2):
                    dot = sum(prototypes[n, d] * embeddings[i, d, h, w] for d in range(5))
                    torch.testing.assert_close(raw[i, n, h, w], dot)
                    top += masks[i, n, h, w] * embeddings[i, :, h, w]
                    bottom += masks[i, n, h, w]
            torch.testing.assert_close(pooled[i, n], top / bottom)


def test_activations_by_name() -> None:
    embeddings, prototypes = maps(0)
    raw = class_activation(embeddings, prototypes, "none")
    assert raw.min() < 0
    torch.testing.assert_close(class_activation(embeddings, prototypes), raw.clamp_min(0))
    torch.testing.assert_close(
        class_activation(embeddings, prototypes, "sigmoid"), 1 / (1 + (-raw).exp())
    )
    torch.testing.assert_close(
        class_activation(embeddings, prototypes, "softmax"),
        raw.exp() / raw.exp().sum(1, keepdim=True),
    )


@given(seed=st.integers(0, 1000))
def test_under_present_a_class_competes_with_those_of_its_image_and_no_other(seed: int) -> None:
    embeddings, prototypes = maps(seed)
    present = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    masks = present_activation(embeddings, prototypes, present)
    raw = class_activation(embeddings, prototypes, "none")
    for i in range(3):
        for n in range(4):
            rows = sorted({n, *present[i].nonzero().flatten().tolist()})
            share = raw[i, rows].softmax(dim=0)[rows.index(n)]
            torch.testing.assert_close(masks[i, n], share)


def test_with_every_class_present_it_is_the_softmax_and_with_none_all_is_each_ones() -> None:
    embeddings, prototypes = maps(0)
    everything, nothing = torch.ones(3, 4), torch.zeros(3, 4)
    torch.testing.assert_close(
        present_activation(embeddings, prototypes, everything),
        class_activation(embeddings, prototypes, "softmax"),
    )
    assert (present_activation(embeddings, prototypes, nothing) == 1).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_of_present_masks_in_float64(scale: float) -> None:
    embeddings, prototypes = (scale * value for value in maps(3))
    embeddings.requires_grad_()
    prototypes.requires_grad_()
    present = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    if scale == 1:
        assert torch.autograd.gradcheck(
            lambda V, W: present_activation(V, W, present), (embeddings, prototypes)
        )
    present_activation(embeddings, prototypes, present).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_labels_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"multi-hot of shape \(3, 4\)"):
        present_activation(*maps(0), torch.ones(3, 5))


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_pooled_vector_keeps_with_the_scale_of_relu_masks(seed: int, scale: float) -> None:
    embeddings, prototypes = maps(seed)
    pooled = masked_average_pooling(embeddings, class_activation(embeddings, prototypes))
    scaled = masked_average_pooling(embeddings, class_activation(embeddings, scale * prototypes))
    torch.testing.assert_close(scaled, pooled)


@given(seed=st.integers(0, 1000))
def test_pooled_vector_lies_within_the_range_of_the_embeddings(seed: int) -> None:
    embeddings, prototypes = maps(seed)
    pooled = masked_average_pooling(embeddings, class_activation(embeddings, prototypes, "softmax"))
    low, high = embeddings.amin((2, 3))[:, None], embeddings.amax((2, 3))[:, None]
    assert ((pooled >= low - 1e-12) & (pooled <= high + 1e-12)).all()


def test_hard_masks_pool_their_pixels() -> None:
    embeddings, _ = maps(1, torch.float32)
    masks = torch.zeros(3, 1, 4, 2, dtype=torch.bool)
    masks[:, 0, 1:3, 1] = True
    expected = embeddings[:, :, 1:3, 1].mean(2)[:, None]
    torch.testing.assert_close(masked_average_pooling(embeddings, masks), expected)
    torch.testing.assert_close(masked_average_pooling(embeddings, masks.to(torch.uint8)), expected)


@pytest.mark.parametrize("mass", [0.0, 1e-30])
def test_an_empty_mask_gives_a_zero_vector_and_zero_gradients(mass: float) -> None:
    embeddings, _ = maps(2, torch.float32)
    embeddings.requires_grad_()
    masks = torch.full((3, 2, 4, 2), mass)
    masks[:, 1] = 1
    masks.requires_grad_()
    pooled = masked_average_pooling(embeddings, masks)
    assert (pooled[:, 0] == 0).all()
    torch.testing.assert_close(pooled[:, 1], embeddings.mean((2, 3)))
    gradients = torch.autograd.grad(pooled[:, 0].sum(), (embeddings, masks), retain_graph=True)
    assert all((gradient == 0).all() for gradient in gradients)
    (gradient,) = torch.autograd.grad(pooled.sum(), embeddings)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / 8))


def test_gradients_in_float64() -> None:
    embeddings, prototypes = (tensor.requires_grad_() for tensor in maps(3))
    masks = torch.rand(3, 2, 4, 2, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(masked_average_pooling, (embeddings, masks))
    for name in ACTIVATIONS:
        assert torch.autograd.gradcheck(
            lambda V, W, name=name: class_activation(V, W, name), (embeddings, prototypes)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    # 4096 ones: a sum kept in half precision stalls at 256 (bfloat16) or 2048 (float16).
    embeddings = torch.ones(1, 2, 64, 64, dtype=dtype)
    masks = torch.ones(1, 1, 64, 64, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = masked_average_pooling(embeddings, masks)
        raw = class_activation(embeddings, torch.full((1, 2), 1 / 3))
    torch.testing.assert_close(pooled, torch.ones(1, 1, 2), rtol=0, atol=0)
    torch.testing.assert_close(raw, torch.full((1, 1, 64, 64), 2 / 3))


def test_bad_input_is_named() -> None:
    embeddings, prototypes = maps(0)
    with pytest.raises(TypeError, match=r"embeddings must be a torch\.Tensor of rank 4; got a lis"):
        class_activation([1.0], prototypes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="embeddings must be floating point; got a int64 tensor"):
        class_activation(embeddings.long(), prototypes)
    with pytest.raises(ValueError, match=r"embeddings must have shape \(B, D, H, W\); got rank 3"):
        class_activation(embeddings[0], prototypes)
    with pytest.raises(ValueError, match="prototypes must have rank 2"):
        class_activation(embeddings, prototypes[0])
    with pytest.raises(ValueError, match="must agree in D; got D = 5 and D = 4"):
        class_activation(embeddings, prototypes[:, :4])
    with pytest.raises(ValueError, match=r"unknown activation 'tanh'; these exist: 'relu', 'sigm"):
        class_activation(embeddings, prototypes, "tanh")
    with pytest.raises(ValueError, match=r"masks must have shape \(3, N, 4, 2\)"):
        masked_average_pooling(embeddings, torch.ones(3, 1, 2, 4))
    with pytest.raises(ValueError, match=r"masks must have shape \(3, N, 4, 2\)"):
        masked_average_pooling(embeddings, torch.ones(3, 4, 2))
    with pytest.raises(TypeError, match=r"masks must be a real torch\.Tensor"):
        masked_average_pooling(embeddings, torch.ones(3, 1, 4, 2, dtype=torch.complex64))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype, activation: str) -> None:
    embeddings, prototypes = maps(4, torch.float32)
    # All positive, so that the literal form divides by nothing near zero.
    embeddings, prototypes = embeddings.abs().to(dtype), prototypes.abs()
    expected = masked_average_pooling(
        embeddings, class_activation(embeddings, prototypes, activation)
    )
    moved = embeddings.to(cuda)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        masks = class_activation(moved, prototypes.to(cuda), activation)
        actual = masked_average_pooling(moved, masks)
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-5, rtol=1e-4)
