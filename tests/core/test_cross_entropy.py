"""Plain and balanced cross-entropy: against literal sums, autograd, and what they must not hear."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vpl_plugin.core.cross_entropy import (
    balanced_cross_entropy,
    plain_cross_entropy,
)

PUBLIC = {"plain": plain_cross_entropy, "balanced": balanced_cross_entropy}


def batch(
    seed: int,
    background: float = 0.5,
    unknown: float = 0.3,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Maps of four classes and masks with about these shares of background and unknown pixels."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(1, 4, (2, 5, 3), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < background] = 0
    masks[torch.rand(masks.shape, generator=generator) < unknown] = 255
    return torch.randn(2, 4, 5, 3, generator=generator, dtype=dtype), masks


def literal(logits: Tensor, masks: Tensor) -> float:
    """Pixel by pixel."""
    kinds: dict[bool, list[float]] = {}
    for b, y, x in (masks != 255).nonzero().tolist():
        label = int(masks[b, y, x])
        loss = -float(logits[b, :, y, x].log_softmax(0)[label])
        kinds.setdefault(label == 0, []).append(loss)
    means = [sum(found) / len(found) for found in kinds.values()]
    return sum(means) / len(means) if means else 0.0


@given(seed=st.integers(0, 1000), background=st.floats(0, 1), unknown=st.floats(0, 1))
def test_balanced_is_the_mean_of_both_means(seed: int, background: float, unknown: float) -> None:
    logits, masks = batch(seed, background, unknown)
    found = float(balanced_cross_entropy(logits, masks))
    assert found == pytest.approx(literal(logits, masks), abs=1e-12)


@given(seed=st.integers(0, 1000))
def test_plain_is_torchs_mean(seed: int) -> None:
    logits, masks = batch(seed)
    expected = F.cross_entropy(logits, masks, ignore_index=255)
    torch.testing.assert_close(plain_cross_entropy(logits, masks), expected)


@given(seed=st.integers(0, 1000))
def test_where_both_kinds_are_as_many_balanced_is_plain(seed: int) -> None:
    logits, _ = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.zeros(10), torch.randint(1, 4, (10,), generator=generator)])
    labels = torch.cat([labels, torch.full((10,), 255)]).long()
    masks = labels[torch.randperm(30, generator=generator)].view(2, 5, 3)
    torch.testing.assert_close(
        balanced_cross_entropy(logits, masks), plain_cross_entropy(logits, masks)
    )


@given(seed=st.integers(0, 1000), times=st.integers(2, 5))
def test_more_background_of_the_same_kind_changes_nothing(seed: int, times: int) -> None:
    """Copies of the background pixels, beside a photo's own; the plain mean follows them."""
    logits, masks = batch(seed, background=0.6, unknown=0.0)
    only_background = masks.masked_fill(masks != 0, 255)
    more = torch.cat([logits] * times), torch.cat([masks, *[only_background] * (times - 1)])
    torch.testing.assert_close(balanced_cross_entropy(*more), balanced_cross_entropy(logits, masks))
    if 0 < int((masks == 0).sum()) < masks.numel():
        assert not torch.isclose(
            plain_cross_entropy(*more), plain_cross_entropy(logits, masks), rtol=1e-9
        )


@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("background", [0.0, 0.5, 1.0], ids=["objects", "both", "background"])
def test_gradients_are_those_of_finite_differences(ce, background: float) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(3, background)
    assert torch.autograd.gradcheck(lambda maps: ce(maps, masks), logits.requires_grad_())


def test_the_gradient_is_that_of_the_weighted_softmax() -> None:
    """By hand: (softmax - one-hot) of each pixel, times its weight."""
    logits, masks = batch(4)
    (gradient,) = torch.autograd.grad(
        balanced_cross_entropy(logits.requires_grad_(), masks), logits
    )
    weights = torch.zeros(masks.shape, dtype=torch.float64)
    for kind in (masks == 0, (masks != 0) & (masks != 255)):
        weights[kind] = 0.5 / int(kind.sum())
    one_hot = F.one_hot(masks.clamp_max(3), 4).movedim(3, 1)
    expected = (logits.detach().softmax(1) - one_hot) * weights[:, None]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
def test_a_batch_without_a_label_costs_nothing(ce) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(0)
    loss = ce(logits.requires_grad_(), torch.full_like(masks, 255))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient == 0).all()


@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
def test_what_is_unknown_is_not_heard(ce) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(5)
    unknown = (masks == 255)[:, None]
    # A NaN there would reach the sum through a product with 0.
    changed = logits.masked_fill(unknown, 1e30)
    assert torch.equal(ce(changed, masks), ce(logits, masks))
    byte_masks, other_index = masks.to(torch.uint8), masks.masked_fill(masks == 255, -1)
    assert torch.equal(ce(logits, byte_masks), ce(logits, masks))
    assert torch.equal(ce(logits, other_index, ignore_index=-1), ce(logits, masks))


@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
def test_half_precision_is_computed_in_float32(ce) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ce(logits, masks)
    torch.testing.assert_close(loss, ce(logits.float(), masks))


@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
def test_bad_input_is_named(ce) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(0)
    with pytest.raises(ValueError, match=r"pseudo_masks must have shape \(2, 5, 3\)"):
        ce(logits, masks[:, :4])
    with pytest.raises(TypeError, match=r"pseudo_masks must be an integer torch\.Tensor"):
        ce(logits, masks.float())
    with pytest.raises(ValueError, match="ignore_index 2 is one of the 4 classes"):
        ce(logits, masks, ignore_index=2)
    with pytest.raises(ValueError, match=r"logits must have shape \(B, C, H, W\)"):
        ce(logits[0], masks)


@pytest.mark.cuda
@pytest.mark.parametrize("ce", PUBLIC.values(), ids=PUBLIC)
def test_cuda_equals_cpu_and_nothing_waits(ce, cuda: torch.device) -> None:  # type: ignore[no-untyped-def]
    logits, masks = batch(7)
    there = logits.to(cuda).requires_grad_(), masks.to(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = ce(*there)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), ce(logits, masks))
