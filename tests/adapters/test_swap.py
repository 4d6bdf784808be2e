"""Prototypes swapped into any object that keeps text features."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vpl_plugin.adapters.swap import swap_prototypes

W_FG, W_BG = torch.arange(6.0).view(2, 3), torch.ones(4, 3)


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fg_text_features", torch.zeros(2, 3, dtype=torch.float16))
        self.bg_text_features = torch.zeros(4, 3)


class WithParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.zeros(2, 3))


def test_plain_attributes_are_swapped_and_restored() -> None:
    fg, bg = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(4, 3)
    model = SimpleNamespace(fg_text_features=fg, bg_text_features=bg)
    with swap_prototypes(model, foreground=W_FG, background=W_BG) as inside:
        assert inside is model
        assert torch.equal(model.fg_text_features, W_FG.double())
        assert torch.equal(model.bg_text_features, W_BG)
    assert model.fg_text_features is fg
    assert model.bg_text_features is bg
    given = W_BG.clone()
    with swap_prototypes(model, foreground=W_FG, background=given):
        model.bg_text_features /= 2
    assert torch.equal(given, W_BG)
    with swap_prototypes(model, foreground=W_FG):
        assert model.bg_text_features is bg


def test_a_buffer_stays_a_buffer() -> None:
    model = WithBuffer()
    with swap_prototypes(model, foreground=W_FG, background=W_BG):
        assert torch.equal(model.state_dict()["fg_text_features"], W_FG.half())
    assert not model.state_dict()["fg_text_features"].any()


def test_a_parameter_keeps_its_identity_and_the_callers_tensor_its_values() -> None:
    model = WithParameter()
    parameter = model.classes
    given = W_FG.clone()
    with swap_prototypes(model, foreground=given, names=("classes", "none")):
        assert model.classes is parameter
        assert torch.equal(parameter, W_FG)
        with torch.no_grad():
            parameter += 1
    assert not parameter.any()
    assert torch.equal(given, W_FG)


@pytest.mark.parametrize("make", [WithBuffer, WithParameter])
def test_all_is_restored_where_the_block_raises(make: type) -> None:
    model = make()
    names = ("classes", "none") if make is WithParameter else ("fg_text_features", "none")
    with (
        pytest.raises(RuntimeError, match="mine"),
        swap_prototypes(model, foreground=W_FG, names=names),
    ):
        raise RuntimeError("mine")
    assert not getattr(model, names[0]).any()


def test_what_does_not_fit_is_told_before_anything_is_swapped() -> None:
    model = WithBuffer()
    with (
        pytest.raises(ValueError, match=r"background must have the shape \(4, 3\) of holder's"),
        swap_prototypes(model, foreground=W_FG, background=W_FG),
    ):
        pass
    assert not model.fg_text_features.any()
    with (
        pytest.raises(AttributeError, match="holder, a WithBuffer, has no attribute 'fg'"),
        swap_prototypes(model, foreground=W_FG, names=("fg", "bg")),
    ):
        pass
    with (
        pytest.raises(TypeError, match="foreground must be a tensor; got a list"),
        swap_prototypes(model, foreground=[[1.0]]),  # type: ignore[arg-type]
    ):
        pass
    model.fg_text_features = None
    with (
        pytest.raises(TypeError, match="fg_text_features of holder must be a tensor"),
        swap_prototypes(model, foreground=W_FG),
    ):
        pass
