"""Kinds of dense features against their formulas, written out head by head in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.clip import ClipModel, dense_features, load_clip
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.errors import InputError

KINDS = ("clip", "maskclip", "sclip", "clearclip", "surgery")
MODELS: dict[str, dict[str, Any]] = {
    "three blocks": {},
    "eight blocks": {"layers": 8},
    "layer scale": {"ls_init_value": 0.3},
    "one block": {"layers": 1},
}


def weights(kind: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """How much of each patch (L, L) a head takes."""

    def rows(a: Tensor, b: Tensor) -> Tensor:
        scores = (a @ b.T / a.shape[1] ** 0.5).exp()
        return scores / scores.sum(dim=1, keepdim=True)

    if kind == "maskclip":
        return torch.eye(len(q), dtype=q.dtype)
    if kind == "sclip":
        return rows(q, q) + rows(k, k)
    return rows(*{"clip": (q, k), "clearclip": (q, q), "surgery": (v, v)}[kind])


def attended(block: Any, x: Tensor, kind: str) -> Tensor:
    """What a block's attention gives of its normalised tokens (L, C), one head after the other."""
    width, count = x.shape[1], block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    query, key, value = (
        x @ weight[start : start + width].T + bias[start : start + width]
        for start in (0, width, 2 * width)
    )
    size = width // count
    outputs = []
    for head in range(count):
        q, k, v = (part[:, head * size : (head + 1) * size] for part in (query, key, value))
        outputs.append(weights(kind, q, k, v) @ v)
    joined = torch.cat(outputs, dim=1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    return joined * getattr(block.ls_1, "gamma", 1.0)


def mlp(block: Any, x: Tensor) -> Tensor:
    out = block.mlp.c_proj(block.mlp.gelu(block.mlp.c_fc(block.ln_2(x))))
    return out * getattr(block.ls_2, "gamma", 1.0)


def whole(block: Any, x: Tensor) -> Tensor:
    x = x + attended(block, block.ln_1(x), "clip")
    return x + mlp(block, x)


def reference(visual: Any, pixels: Tensor, kind: str) -> Tensor:
    """Unit features (h * w, D) of one photo (3, H, W) of the model's own size."""
    patches = visual.conv1(pixels[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(x)
    blocks = list(visual.transformer.resblocks)
    if kind == "surgery":
        last = blocks[-6:]
        for block in blocks[: len(blocks) - len(last)]:
            x = whole(block, x)
        new = x
        for block in last:
            new = new + attended(block, block.ln_1(x), "surgery")
            x = whole(block, x)
        x = new
    else:
        for block in blocks[:-1]:
            x = whole(block, x)
        out = attended(blocks[-1], blocks[-1].ln_1(x), kind)
        if kind == "clearclip":
            x = out
        else:
            x = x + out
            x = x + mlp(blocks[-1], x)
    return F.normalize(visual.ln_post(x[1:]) @ visual.proj, dim=1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_its_formula(
    kind: str, model: str, make_open_clip: Callable[..., nn.Module], pixels: Tensor
) -> None:
    module = make_open_clip(**MODELS[model])
    spread(module)
    ours = load_clip(module).dense_features(pixels, kind=kind)
    double = make_open_clip(**MODELS[model]).double()
    double.load_state_dict(module.state_dict())
    for features, photo in zip(ours, pixels.double(), strict=True):
        expected = reference(double.visual, photo, kind)
        torch.testing.assert_close(features.double(), expected, rtol=0, atol=2e-5)


def spread(module: nn.Module) -> None:
    """Larger weights: attention that is nearly flat tells little."""
    generator = torch.Generator().manual_seed(1)
    for block in module.visual.transformer.resblocks:  # type: ignore[union-attr]
        for bias in (block.ln_1.bias, block.ln_2.bias, block.attn.in_proj_bias):
            bias.data = torch.randn(bias.shape, generator=generator)
        block.attn.in_proj_weight.data *= 3


def test_no_two_kinds_are_alike(mini: ClipModel) -> None:
    photo = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = [mini.dense_features(photo, kind=kind)[0] for kind in KINDS]
    for number, one in enumerate(features):
        torch.testing.assert_close(one.norm(dim=1), torch.ones(24))
        for other in features[:number]:
            assert F.cosine_similarity(one, other).min() < 0.999


def test_clip_is_the_last_block_as_it_is(mini: ClipModel) -> None:
    photo = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    tokens = mini.tokens_before_last_block(photo).tokens
    output, _ = mini.after_norm(tokens, mini.last_block_norm(tokens))
    expected = F.normalize(mini.project(output), dim=-1)
    torch.testing.assert_close(mini.dense_features(photo), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_any_size_one_by_one_or_together(kind: str, mini: ClipModel) -> None:
    generator = np.random.default_rng(0)
    photos = [generator.integers(0, 256, (40, side, 3)).astype(np.uint8) for side in (60, 60, 30)]
    together = list(dense_features(mini, photos, kind=kind))
    for photo, features in zip(photos, together, strict=True):
        alone = mini.dense_features(mini.preprocess(photo)[None], kind=kind)[0]
        torch.testing.assert_close(features, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str, dtype: torch.dtype, mini: ClipModel) -> None:
    photo = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = load_clip("mini", device="cpu", dtype=dtype).dense_features(photo, kind=kind)
    assert features.dtype == dtype
    expected = mini.dense_features(photo, kind=kind)
    assert F.cosine_similarity(features.float(), expected, dim=-1).min() > 0.99


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda(kind: str, dtype: torch.dtype, mini: ClipModel, cuda: torch.device) -> None:
    photo = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = load_clip("mini", device=cuda, dtype=dtype).dense_features(photo.to(cuda), kind=kind)
    least = 0.99999 if dtype == torch.float32 else 0.99
    expected = mini.dense_features(photo, kind=kind)
    assert F.cosine_similarity(features.float().cpu(), expected, dim=-1).min() > least


def test_an_unknown_kind_is_named(mini: ClipModel) -> None:
    photo = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match=r"unknown kind of features 'sclp'.*did you mean 'sclip'"):
        mini.dense_features(photo, kind="sclp")
    with pytest.raises(InputError, match="unknown kind of features"):
        list(dense_features(mini, [np.zeros((32, 32, 3), np.uint8)], kind="none"))


def test_a_kind_of_ones_own(mini: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FEATURE_KINDS, "_entries", dict(FEATURE_KINDS._entries))

    @FEATURE_KINDS.register("before_last")
    def before_last(tower, tokens):  # type: ignore[no-untyped-def]
        return tower.run_until(-1, tokens)

    photo = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    tokens = mini.tokens_before_last_block(photo).tokens
    expected = F.normalize(mini.project(tokens), dim=-1)
    torch.testing.assert_close(mini.dense_features(photo, kind="before_last"), expected)
