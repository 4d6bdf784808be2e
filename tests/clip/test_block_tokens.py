"""Tokens of several blocks, as a decoder on the frozen model reads them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vpl_plugin.clip import load_clip


def test_are_what_open_clips_own_blocks_give(make_open_clip, pixels):
    module = make_open_clip()
    seen = []
    for block in module.visual.transformer.resblocks:
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    with torch.no_grad():
        module.visual(pixels)
    model = load_clip(make_open_clip())
    tokens = model.block_tokens(pixels, (0, 1, 2))
    assert tokens.shape == (2, 3, 16, model.token_width)
    expected = torch.stack([output[:, 1:] for output in seen], dim=1)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


def test_negative_blocks_count_from_the_end_and_later_ones_change_nothing(make_open_clip, pixels):
    model = load_clip(make_open_clip())
    every = model.block_tokens(pixels, range(3))
    assert torch.equal(model.block_tokens(pixels, (-3, -1)), every[:, [0, 2]])
    assert torch.equal(model.block_tokens(pixels, [1]), every[:, 1:2])


def test_the_last_block_projected_is_the_dense_feature(mini, pixels):
    tokens = mini.block_tokens(pixels, (-1,))[:, 0]
    with torch.no_grad():
        features = F.normalize(mini.patch_projection()(tokens), dim=-1)
    torch.testing.assert_close(features, mini.dense_features(pixels))


def test_grids_need_not_be_square(mini):
    assert mini.block_tokens(torch.zeros(1, 3, 32, 80), (0,)).shape == (1, 1, 10, 192)


def test_no_gradient_and_the_models_dtype(make_open_clip, pixels):
    model = load_clip(make_open_clip(), dtype=torch.float16)
    tokens = model.block_tokens(pixels.requires_grad_(), (0, -1))
    assert tokens.dtype == torch.float16
    assert not tokens.requires_grad


def test_training_the_projections_copy_leaves_the_model_as_it_is(mini, pixels):
    before = mini.dense_features(pixels)
    projection = mini.patch_projection()
    assert all(parameter.requires_grad for parameter in projection.parameters())
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.zero_()
    assert torch.equal(mini.dense_features(pixels), before)


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ((), ValueError, "one or more in ascending order"),
        ((1, 0), ValueError, "ascending order"),
        ((1, -1), ValueError, "ascending order"),
        ((2,), ValueError, r"lie in \[-2, 1\], as the model has 2; got 2"),
        ((-3,), ValueError, "got -3"),
        ((0.5,), TypeError, "whole numbers, got 0.5"),
    ],
)
def test_bad_blocks_are_refused(mini, pixels, blocks, error, message):
    with pytest.raises(error, match=message):
        mini.block_tokens(pixels, blocks)


def test_bad_pixels_are_refused(mini):
    with pytest.raises(ValueError, match="multiple of the patch size 16"):
        mini.block_tokens(torch.zeros(1, 3, 32, 40), (0,))
