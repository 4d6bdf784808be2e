"""Kept tokens against the tokens themselves, in every precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.adapters.clip_es.cams import batch_cams, token_cams
from vpl_plugin.adapters.clip_es.kept_tokens import kept_bytes, kept_tokens, vision_tokens
from vpl_plugin.clip import VOC, ClipModel, VisionTokens, class_prototypes
from vpl_plugin.experiments.demo.photos import demo_photos

CPU = torch.device("cpu")


def made(blocks: int, grid: tuple[int, int], dtype: torch.dtype, seed: int) -> VisionTokens:
    generator = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]
    scores = 4 * torch.randn(2, blocks, patches, patches, generator=generator)
    tokens = torch.randn(2, 1 + patches, 8, generator=generator)
    return VisionTokens(tokens.to(dtype), scores.softmax(dim=-1).to(dtype), grid)


@given(
    blocks=st.integers(1, 7),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_tokens_are_exact_and_the_mean_attention_close(
    blocks: int, height: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    tokens = made(blocks, (height, width), dtype, seed)
    again = vision_tokens(kept_tokens(tokens), CPU, dtype)
    assert again.grid == tokens.grid
    assert torch.equal(again.tokens, tokens.tokens)
    assert again.attention.shape == tokens.attention.shape
    mean = tokens.attention.double().mean(dim=1)
    # Half a step d of the root r moves r^2 by r d + d^2 / 4 at most; then it is rounded.
    step = mean.sqrt().amax(dim=-1, keepdim=True) / 65535
    error = (again.attention.double().mean(dim=1) - mean).abs()
    rounding = (torch.finfo(dtype).eps + 1e-6) * mean
    assert (error <= mean.sqrt() * step + step**2 / 4 + rounding).all()


def test_a_model_of_one_block_has_no_attention_to_keep() -> None:
    again = vision_tokens(kept_tokens(made(0, (2, 3), torch.float32, 0)), CPU, torch.float32)
    assert again.attention.shape == (2, 0, 6, 6)


def test_a_row_without_attention_stays_zero() -> None:
    tokens = made(2, (2, 2), torch.float32, 0)
    tokens.attention[:, :, 1] = 0
    again = vision_tokens(kept_tokens(tokens), CPU, torch.float32)
    assert torch.equal(again.attention[:, :, 1], torch.zeros(2, 2, 4))


@pytest.mark.parametrize("number", range(6))
def test_cams_of_kept_tokens_are_those_of_the_photo(mini: ClipModel, number: int) -> None:
    item = demo_photos()[number]
    pixels = mini.preprocess(item.photo.reduce(2))[None]
    classes = [VOC.indices(item.labels)]
    text = class_prototypes(mini, VOC)
    tokens = mini.tokens_before_last_block(pixels)
    again = vision_tokens(kept_tokens(tokens), mini.device, mini.dtype)
    ((ours, features),) = token_cams(mini, again, classes, text)
    ((cams, expected),) = batch_cams(mini, pixels, classes, text)
    assert torch.equal(ours.raw, cams.raw)
    assert torch.equal(features, expected)
    torch.testing.assert_close(ours.refined, cams.refined, rtol=0, atol=5e-5)


def test_the_bytes_are_those_of_the_arrays() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        kept = kept_tokens(made(3, (4, 5), dtype, 0))[0]
        arrays = [part for part in kept if isinstance(part, np.ndarray)]
        assert sum(array.nbytes for array in arrays) == kept_bytes(20, 8, dtype)
