"""The closed form of the last block against autograd through the same block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vpl_plugin.clip import load_clip

VARIANTS = {
    "gelu": {},
    "quick gelu": {"quick_gelu": True},
    "layer scale": {"ls_init_value": 0.3},
    "wide mlp": {"mlp_ratio": 2.0},
    "one block": {"layers": 1},
}


def randomise(module):
    """Weights of a fresh model hide mistakes: unit norms, zero biases, equal layer scales."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.visual.named_parameters():
        if parameter.ndim == 1 and name != "class_embedding":
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data.add_(0.3 * noise)
        elif "in_proj_weight" in name:
            # Attention that is far from uniform.
            parameter.data.mul_(4)
    return module


def by_autograd(model, tokens, cotangents):
    activations = model.last_block_norm(tokens).detach().requires_grad_()
    output, attention = model.after_norm(tokens, activations)
    projected = model.project(output)
    gradients = [
        torch.autograd.grad(
            (projected.mean(dim=1) * cotangents[:, k]).sum(), activations, retain_graph=True
        )[0][:, 1:].mean(dim=1)
        for k in range(cotangents.shape[1])
    ]
    return projected, attention, torch.stack(gradients, dim=1)


def check_parity(model, tokens, cotangents, atol, rtol):
    projected, attention, gradients = by_autograd(model, tokens, cotangents)
    block = model.pooled_block(tokens)
    assert gradients.abs().max() > 100 * atol
    torch.testing.assert_close(block.projected, projected, atol=atol, rtol=rtol)
    torch.testing.assert_close(block.attention, attention, atol=atol, rtol=rtol)
    torch.testing.assert_close(block.activations, model.last_block_norm(tokens))
    ours = block.mean_gradients(cotangents)
    torch.testing.assert_close(ours, gradients, atol=atol, rtol=rtol)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_equals_autograd_in_float64(make_open_clip, pixels, variant):
    model = load_clip(randomise(make_open_clip(**variant).double()), dtype=torch.float64)
    tokens = model.tokens_before_last_block(pixels.double()).tokens
    cotangents = torch.randn(2, 3, 32, dtype=torch.float64)
    check_parity(model, tokens, cotangents, atol=1e-12, rtol=1e-9)


def test_equals_autograd_with_the_embedded_model(mini, pixels):
    tokens = mini.tokens_before_last_block(pixels).tokens
    check_parity(mini, tokens, torch.randn(2, 2, mini.embed_dim), atol=1e-6, rtol=1e-3)


def test_tiny_cotangents_are_scaled_not_lost_in_half_precision(make_open_clip, pixels):
    model = load_clip(randomise(make_open_clip()), dtype=torch.float16)
    block = model.pooled_block(model.tokens_before_last_block(pixels).tokens)
    cotangents = torch.randn(2, 2, 32)
    full = block.mean_gradients(cotangents)
    assert full.dtype == torch.float32
    assert full.abs().max() > 0
    torch.testing.assert_close(block.mean_gradients(cotangents * 2**-40), full * 2**-40)


def test_a_zero_cotangent_gives_a_zero_gradient(mini, pixels):
    block = mini.pooled_block(mini.tokens_before_last_block(pixels).tokens)
    assert not block.mean_gradients(torch.zeros(2, 1, mini.embed_dim)).any()


def test_gives_the_same_in_inference_mode_and_keeps_no_graph(mini, pixels):
    tokens = mini.tokens_before_last_block(pixels).tokens
    cotangents = torch.randn(2, 2, mini.embed_dim)
    plain = mini.pooled_block(tokens).mean_gradients(cotangents)
    assert not plain.requires_grad
    with torch.inference_mode():
        block = mini.pooled_block(mini.tokens_before_last_block(pixels).tokens)
        assert torch.equal(block.mean_gradients(cotangents), plain)


def test_an_mlp_of_another_shape_is_refused(make_open_clip):
    module = make_open_clip()
    module.visual.transformer.resblocks[1].mlp = nn.Sequential(nn.Linear(128, 128))
    with pytest.raises(TypeError, match=r"block 1 has an MLP without c_fc, gelu, c_proj"):
        load_clip(module)
