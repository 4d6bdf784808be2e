"""Eq. 14: its two terms, their weights, and batches without a label."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin import checks
from vpl_plugin.core import cross_entropy, masked_pooling, rsc
from vpl_plugin.core.cross_entropy import balanced_cross_entropy, plain_cross_entropy
from vpl_plugin.core.rsc import rsc_loss
from vpl_plugin.core.vpl_loss import VPLLoss, VPLLossTerms, vpl_loss


def batch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    like = {"generator": generator, "dtype": dtype}
    pseudo_masks = torch.randint(0, 4, (3, 6, 5), generator=generator)
    pseudo_masks[torch.rand(3, 6, 5, generator=generator) < 0.3] = 255
    return {
        "logits": torch.randn(3, 4, 6, 5, **like),
        "pseudo_masks": pseudo_masks,
        "embeddings": torch.randn(3, 8, 3, 2, **like),
        "prototypes": torch.randn(7, 8, **like),
        "labels": torch.rand(3, 7, generator=generator) < 0.4,
    }


@given(
    seed=st.integers(0, 1000),
    lambda_ce=st.floats(0, 3),
    lambda_rsc=st.floats(0, 3),
    tau=st.floats(0.05, 1),
)
def test_total_is_the_weighted_sum_of_both_terms(
    seed: int, lambda_ce: float, lambda_rsc: float, tau: float
) -> None:
    inputs = batch(seed, torch.float64)
    terms = vpl_loss(**inputs, lambda_ce=lambda_ce, lambda_rsc=lambda_rsc, tau=tau)
    kept = inputs["pseudo_masks"] != 255
    picked = inputs["logits"].log_softmax(1).movedim(1, 3)[kept]
    ce = -picked[torch.arange(len(picked)), inputs["pseudo_masks"][kept]].mean()
    rsc = rsc_loss(inputs["embeddings"], inputs["prototypes"], inputs["labels"], tau=tau)
    # A term without weight is not computed.
    torch.testing.assert_close(terms.ce, ce if lambda_ce else torch.zeros_like(ce))
    torch.testing.assert_close(terms.rsc, rsc if lambda_rsc else torch.zeros_like(rsc))
    torch.testing.assert_close(terms.total, lambda_ce * ce + lambda_rsc * rsc)


@pytest.mark.parametrize("broken", ["logits", "embeddings"])
def test_at_weight_0_nothing_is_computed_and_nan_stays_out(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = batch(0)
    weight = {"logits": "lambda_ce", "embeddings": "lambda_rsc"}[broken]
    expected = vpl_loss(**inputs, **{weight: 0.0})
    inputs[broken] = torch.full_like(inputs[broken], torch.nan).requires_grad_()
    other = "embeddings" if broken == "logits" else "logits"
    inputs[other].requires_grad_()
    assert not vpl_loss(**inputs).total.isfinite()
    terms = vpl_loss(**inputs, **{weight: 0.0})
    torch.testing.assert_close(terms, expected, check_dtype=True)
    terms.total.backward()
    assert inputs[broken].grad is None
    assert inputs[other].grad.isfinite().all()
    called = "contrast" if broken == "embeddings" else "CROSS_ENTROPIES"
    monkeypatch.setattr(f"vpl_plugin.core.vpl_loss.{called}", {"plain": None})
    assert torch.equal(vpl_loss(**inputs, **{weight: 0.0}).total, terms.total)


def test_bad_input_is_named_at_weight_0_too() -> None:
    with pytest.raises(ValueError, match="tau must be"):
        vpl_loss(**batch(0), lambda_rsc=0.0, tau=-1.0)
    with pytest.raises(ValueError, match="unknown ce 'focal'; these exist: 'plain', 'balanced'"):
        vpl_loss(**batch(0), lambda_ce=0.0, ce="focal")


def test_each_input_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def counted(check: Callable[..., object], *args: object) -> object:
        checked.append(f"{check.__name__}({args[0] if isinstance(args[0], str) else ''})")
        return check(*args)

    modules = [checks, cross_entropy, masked_pooling, rsc, sys.modules[vpl_loss.__module__]]
    for module in modules:
        for name in [name for name in vars(module) if name.lstrip("_").startswith("check_")]:
            check = functools.partial(counted, getattr(module, name))
            monkeypatch.setattr(module, name, check)
    vpl_loss(**batch(0))
    assert {"check_maps(logits)", "check_maps(embeddings)", "check_labels()"} <= set(checked)
    assert len(checked) == len(set(checked))


def test_the_cross_entropy_goes_by_name() -> None:
    inputs = batch(0)
    functions = {"plain": plain_cross_entropy, "balanced": balanced_cross_entropy}
    for name, function in functions.items():
        expected = function(inputs["logits"], inputs["pseudo_masks"])
        assert torch.equal(vpl_loss(**inputs, ce=name).ce, expected)
        assert torch.equal(VPLLoss(ce=name)(**inputs).ce, expected)
    assert torch.equal(vpl_loss(**inputs).ce, vpl_loss(**inputs, ce="plain").ce)
    assert "ce='balanced'" in repr(VPLLoss(ce="balanced"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_ignored_pixels_costs_nothing(dtype: torch.dtype) -> None:
    inputs = batch(0, dtype)
    inputs["pseudo_masks"] = torch.full_like(inputs["pseudo_masks"], 255)
    inputs["labels"] = torch.zeros_like(inputs["labels"])
    leaves = [inputs[name].requires_grad_() for name in ("logits", "embeddings")]
    terms = vpl_loss(**inputs)
    assert [term.item() for term in terms] == [0, 0, 0]
    for gradient in torch.autograd.grad(terms.total, leaves):
        assert (gradient == 0).all()


def test_ignored_pixels_get_no_gradient() -> None:
    inputs = batch(1)
    logits = inputs["logits"].requires_grad_()
    (gradient,) = torch.autograd.grad(vpl_loss(**inputs).ce, logits)
    ignored = (inputs["pseudo_masks"] == 255)[:, None].expand_as(gradient)
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).all()


def test_masks_of_image_files_and_another_ignore_index() -> None:
    inputs = batch(2)
    expected = vpl_loss(**inputs)
    masks = inputs["pseudo_masks"]
    as_bytes = vpl_loss(**{**inputs, "pseudo_masks": masks.to(torch.uint8)})
    torch.testing.assert_close(as_bytes, expected)
    inputs["pseudo_masks"] = masks.masked_fill(masks == 255, -1)
    torch.testing.assert_close(vpl_loss(**inputs, ignore_index=-1), expected)


def test_half_precision_under_autocast_is_computed_in_float32() -> None:
    inputs = batch(3, torch.bfloat16)
    exact = {
        name: value.float() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    expected = vpl_loss(**exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vpl_loss(**inputs)
    torch.testing.assert_close(terms, expected)


def test_module_is_the_function() -> None:
    inputs = batch(4)
    settings = {
        "lambda_ce": 0.5,
        "lambda_rsc": 2.0,
        "tau": 0.3,
        "activation": "sigmoid",
        "ignore_index": 99,
    }
    masks = inputs["pseudo_masks"]
    inputs["pseudo_masks"] = masks.masked_fill(masks == 255, 99)
    terms = VPLLoss(**settings)(**inputs)
    assert isinstance(terms, VPLLossTerms)
    torch.testing.assert_close(terms, vpl_loss(**inputs, **settings))
    assert repr(VPLLoss()) == (
        "VPLLoss(lambda_ce=1.0, lambda_rsc=1.0, tau=0.07, activation='relu', ignore_index=255)"
    )


def test_training_on_it_lowers_both_terms() -> None:
    inputs = batch(5)
    leaves = [inputs[name].requires_grad_() for name in ("logits", "embeddings")]
    optimizer = torch.optim.Adam(leaves, lr=0.05)
    before = vpl_loss(**inputs)
    for _ in range(40):
        optimizer.zero_grad()
        vpl_loss(**inputs).total.backward()
        optimizer.step()
    after = vpl_loss(**inputs)
    assert after.ce < 0.5 * before.ce
    assert after.rsc < 0.5 * before.rsc


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(3, 4, 6)}, ValueError, r"logits must have shape \(B, C, H, W\)"),
        (
            {"logits": torch.zeros(3, 4, 3, 5)},
            ValueError,
            r"pseudo_masks must have shape \(3, 3, 5\), that of the logits",
        ),
        (
            {"pseudo_masks": torch.zeros(3, 6, 5)},
            TypeError,
            "pseudo_masks must be an integer torch.Tensor; got a float32",
        ),
        (
            {"pseudo_masks": torch.zeros(3, 6, 5, dtype=torch.bool)},
            TypeError,
            "pseudo_masks must be an integer torch.Tensor; got a bool",
        ),
        ({"embeddings": torch.zeros(2, 8, 3, 2)}, ValueError, "got B = 3 and B = 2"),
        ({"embeddings": torch.zeros(3, 9, 3, 2)}, ValueError, "got D = 9 and D = 8"),
        ({"labels": torch.zeros(3, 4)}, ValueError, r"labels must be multi-hot of shape \(3, 7\)"),
        ({"lambda_ce": -1.0}, ValueError, "lambda_ce must be a finite number, 0 or more"),
        ({"lambda_rsc": float("nan")}, ValueError, "lambda_rsc must be a finite number"),
        ({"tau": 0.0}, ValueError, "tau must be a finite number above 0"),
        ({"activation": "exp"}, ValueError, "unknown activation 'exp'"),
        ({"ignore_index": 3}, ValueError, "ignore_index 3 is one of the 4 classes"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vpl_loss(**{**batch(0), **change})  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype) -> None:
    inputs = batch(6, dtype)
    expected = vpl_loss(**inputs)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        terms = vpl_loss(**{name: value.to(cuda) for name, value in inputs.items()})
    for actual, term in zip(terms, expected, strict=True):
        torch.testing.assert_close(actual.cpu(), term, atol=1e-5, rtol=1e-4)
