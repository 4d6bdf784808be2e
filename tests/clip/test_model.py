"""The last block as GradCAM needs it, and what a model says to bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vpl_plugin.clip import load_clip


def embedding(model, tokens, activations):
    output, _ = model.after_norm(tokens, activations)
    return F.normalize(model.project(output).mean(dim=1), dim=-1)


def test_the_gradient_at_the_norm_is_that_of_the_plain_forward(make_open_clip, pixels):
    """Against autograd through open_clip's own last block, with a hook on ln_1."""
    module = make_open_clip(pool_type="avg").double()
    model = load_clip(module, dtype=torch.float64)
    tokens = model.tokens_before_last_block(pixels.double()).tokens
    prototypes = F.normalize(torch.randn(5, 32, dtype=torch.float64), dim=-1)

    block = module.visual.transformer.resblocks[-1]
    seen = []
    handle = block.ln_1.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.requires_grad_()) or output
    )
    pooled = module.visual.ln_post(block(tokens))[:, 1:].mean(dim=1) @ module.visual.proj
    handle.remove()
    scores = F.normalize(pooled, dim=-1) @ prototypes.T
    (expected,) = torch.autograd.grad(scores[:, 2].sum(), seen[0])

    activations = model.last_block_norm(tokens).detach().requires_grad_()
    torch.testing.assert_close(activations, seen[0])
    ours = embedding(model, tokens, activations) @ prototypes.T
    (gradient,) = torch.autograd.grad(ours[:, 2].sum(), activations)
    # All in float64, the layer norms too.
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)


def test_a_batched_backward_equals_one_backward_a_class(mini, pixels):
    tokens = mini.tokens_before_last_block(pixels).tokens
    activations = mini.last_block_norm(tokens).requires_grad_()
    prototypes = F.normalize(torch.randn(4, mini.embed_dim), dim=-1)
    scores = (mini.logit_scale * embedding(mini, tokens, activations) @ prototypes.T).softmax(-1)
    seeds = torch.eye(4)[:, None].expand(4, 2, 4)
    (batched,) = torch.autograd.grad(
        scores, activations, seeds, is_grads_batched=True, retain_graph=True
    )
    for index in range(4):
        (single,) = torch.autograd.grad(scores[:, index].sum(), activations, retain_graph=True)
        torch.testing.assert_close(batched[index], single, atol=1e-6, rtol=1e-4)


def test_torch_func_goes_through_the_last_block(mini, pixels):
    tokens = mini.tokens_before_last_block(pixels).tokens
    activations = mini.last_block_norm(tokens)

    def score(values):
        return embedding(mini, tokens, values)[:, 0].sum()

    by_func = torch.func.grad(score)(activations)
    leaf = activations.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(score(leaf), leaf)
    torch.testing.assert_close(by_func, by_autograd)
    assert by_func.abs().max() > 0


def test_nothing_but_the_activations_gets_a_gradient(mini, pixels):
    tokens = mini.tokens_before_last_block(pixels)
    assert not tokens.tokens.requires_grad
    assert not tokens.attention.requires_grad
    assert not mini.dense_features(pixels).requires_grad
    activations = mini.last_block_norm(tokens.tokens).requires_grad_()
    embedding(mini, tokens.tokens, activations).sum().backward()
    assert activations.grad is not None
    assert all(parameter.grad is None for parameter in mini.module.parameters())


def test_photos_in_a_batch_do_not_touch_each_other(mini, pixels):
    together = mini.tokens_before_last_block(pixels)
    features = mini.dense_features(pixels)
    for index in range(2):
        alone = mini.tokens_before_last_block(pixels[index : index + 1])
        torch.testing.assert_close(together.tokens[index], alone.tokens[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.attention[index], alone.attention[0])
        single = mini.dense_features(pixels[index : index + 1])[0]
        torch.testing.assert_close(features[index], single, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 16))


def test_attention_is_a_map_without_the_class_token(mini, pixels):
    attention = mini.tokens_before_last_block(pixels).attention
    sums = attention.sum(dim=-1)
    assert attention.min() >= 0
    assert sums.max() < 1
    assert sums.min() > 0


def test_texts_beyond_the_context_are_cut(mini):
    words = "cat " * 75
    rows = mini.encode_text([words, words + "dog " * 40, "cat"])
    torch.testing.assert_close(rows[0], rows[1])
    assert rows[0] @ rows[2] < 0.999


def test_texts_come_out_the_same_however_many_are_asked_for(mini):
    texts = [f"a photo of {index} cats" for index in range(300)]
    rows = mini.encode_text(texts)
    assert rows.shape == (300, 256)
    torch.testing.assert_close(rows[257:259], mini.encode_text(texts[257:259]))
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(300))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 32, 32), ValueError, r"\(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), ValueError, r"got \(1, 1, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), ValueError, r"got \(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 40), ValueError, r"32 x 40 .* multiple of the patch size 16"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, r"torch\.uint8"),
        (torch.zeros(1, 3, 32, 32, device="meta"), ValueError, "on meta and the model is on cpu"),
        ([[0.0]], TypeError, "got list"),
    ],
)
def test_bad_pixels_are_refused(mini, bad, error, message):
    with pytest.raises(error, match=message):
        mini.tokens_before_last_block(bad)
    with pytest.raises(error, match=message):
        mini.dense_features(bad)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("a cat", TypeError, "one string 'a cat'"),
        ([], ValueError, "not be empty"),
        (["a cat", 3], TypeError, "got 3"),
    ],
)
def test_bad_texts_are_refused(mini, bad, error, message):
    with pytest.raises(error, match=message):
        mini.encode_text(bad)


def test_a_negative_number_of_maps_is_refused(mini, pixels):
    with pytest.raises(ValueError, match="attention_blocks must be 0 or more, got -1"):
        mini.tokens_before_last_block(pixels, attention_blocks=-1)
