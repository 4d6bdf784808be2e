"""The tower runs open_clip's vision transformers as open_clip does, and refuses other towers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vpl_plugin.clip import load_clip
from vpl_plugin.clip.vision_tower import VisionTower, resize_positions

VARIANTS = {
    "class token pooled": {},
    "mean pooled": {"pool_type": "avg"},
    "layer scale": {"ls_init_value": 0.3},
    "no ln_pre": {"no_ln_pre": True},
    "patch dropout": {"patch_dropout": 0.5},
    "sine positions": {"pos_embed_type": "sin_cos_2d"},
    "quick gelu": {"quick_gelu": True},
    "other patches": {"patch_size": 8},
    "wide mlp": {"mlp_ratio": 2.0},
    "one block": {"layers": 1},
    "photo not square": {"image_size": (32, 64)},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_tokens_and_features_match_the_models_own_forward(make_open_clip, pixels, variant):
    module = make_open_clip(output_tokens=True, **variant)
    pixels = pixels[..., : 32 if "image_size" in variant else 64, :]
    with torch.no_grad():
        _, normed = module.visual(pixels)
        layers = len(module.visual.transformer.resblocks)
        theirs = module.visual._embeds(pixels)
        for block in module.visual.transformer.resblocks[: layers - 1]:
            theirs = block(theirs)
    model = load_clip(module)

    before_last = model.tokens_before_last_block(pixels)
    torch.testing.assert_close(before_last.tokens, theirs, atol=1e-5, rtol=1e-5)
    side = model.patch_size
    assert before_last.grid == (pixels.shape[-2] // side, pixels.shape[-1] // side)
    activations = model.last_block_norm(before_last.tokens)
    output, _ = model.after_norm(before_last.tokens, activations)
    expected = normed @ module.visual.proj
    torch.testing.assert_close(model.project(output), expected, atol=1e-5, rtol=1e-5)
    features = model.dense_features(pixels)
    torch.testing.assert_close(features, F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-5)


def test_mean_of_projected_patches_is_the_embedding_of_a_mean_pooled_model(make_open_clip, pixels):
    module = make_open_clip(pool_type="avg", layers=2)
    model = load_clip(module)
    tokens = model.tokens_before_last_block(pixels).tokens
    output, _ = model.after_norm(tokens, model.last_block_norm(tokens))
    with torch.no_grad():
        expected = module.encode_image(pixels)
    torch.testing.assert_close(model.project(output).mean(dim=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("asked", [0, 1, 2, 7])
def test_attention_is_that_of_the_last_blocks_before_the_last(make_open_clip, pixels, asked):
    module = make_open_clip(layers=3)
    model = load_clip(module)
    expected = []
    with torch.no_grad():
        tokens = module.visual._embeds(pixels)
        for block in module.visual.transformer.resblocks:
            normed = block.ln_1(tokens)
            _, attention = block.attn(normed, normed, normed, need_weights=True)
            expected.append(attention[:, 1:, 1:])
            tokens = block(tokens)
    *before_last, last = expected

    ours = model.tokens_before_last_block(pixels, attention_blocks=asked)
    kept = min(asked, 2)
    assert ours.attention.shape == (2, kept, 16, 16)
    for index, attention in enumerate(before_last[2 - kept :]):
        torch.testing.assert_close(ours.attention[:, index], attention, atol=1e-6, rtol=1e-5)
    activations = model.last_block_norm(ours.tokens)
    ours_last = model.after_norm(ours.tokens, activations).attention
    torch.testing.assert_close(ours_last, last, atol=1e-6, rtol=1e-5)


def test_a_photo_of_another_size_equals_a_model_built_for_that_size(make_open_clip):
    square = make_open_clip()
    wide = make_open_clip(image_size=(48, 96))
    weights = square.state_dict()
    positions = weights["visual.positional_embedding"]
    patches = positions[1:].view(4, 4, -1).permute(2, 0, 1)[None]
    resized = F.interpolate(patches, (3, 6), mode="bilinear", align_corners=False)
    rows = resized[0].permute(1, 2, 0).reshape(18, -1)
    weights["visual.positional_embedding"] = torch.cat([positions[:1], rows])
    wide.load_state_dict(weights)

    pixels = torch.randn(1, 3, 48, 96)
    expected = load_clip(wide).dense_features(pixels)
    torch.testing.assert_close(load_clip(square).dense_features(pixels), expected)


def test_resizing_keeps_the_class_token_and_a_constant_field():
    positions = torch.cat([torch.full((1, 5), 7.0), torch.full((9, 5), 2.0)])
    resized = resize_positions(positions, (3, 3), (4, 8))
    assert resized.shape == (33, 5)
    assert torch.equal(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], torch.full((32, 5), 2.0))


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_rounded_positions_follow_upstreams_steps(make_open_clip, size):
    module = make_open_clip(layers=1, no_ln_pre=True)
    module.visual.positional_embedding.data.mul_(50)
    pixels = torch.randn(1, 3, *size)
    grid = (size[0] // 16, size[1] // 16)
    positions = module.visual.positional_embedding.data
    patches = positions[1:].permute(1, 0).reshape(1, 128, 4, 4)
    resized = F.interpolate(patches, size=grid, mode="bilinear").view(128, -1).permute(1, 0)
    rounded = torch.cat([positions[:1], resized]).half().float()
    with torch.no_grad():
        embedded = module.visual.conv1(pixels).flatten(2).permute(0, 2, 1)
    expected = torch.cat([module.visual.class_embedding[None, None], embedded], dim=1) + rounded

    model = load_clip(module)
    ours = model.tokens_before_last_block(pixels, position_dtype=torch.float16).tokens
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    unrounded = model.tokens_before_last_block(pixels).tokens
    assert (unrounded - expected).abs().max() > 1e-3


def test_sequence_first_blocks_as_in_openais_own_package_give_the_same(make_open_clip, pixels):
    module = make_open_clip()
    expected = load_clip(module).dense_features(pixels)
    other = copy.deepcopy(module)
    for block in other.visual.transformer.resblocks:
        block.attn.batch_first = False
    # OpenAI's module notes neither the grid nor the patch size.
    del other.visual.grid_size, other.visual.patch_size
    torch.testing.assert_close(load_clip(other).dense_features(pixels), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(make_open_clip, pixels, dtype):
    module = make_open_clip()
    expected = load_clip(module).dense_features(pixels)
    model = load_clip(module, dtype=dtype)
    features = model.dense_features(pixels)
    assert model.dtype == features.dtype == dtype
    assert F.cosine_similarity(features.float(), expected, dim=-1).min() > 0.999
    assert model.encode_text(["a cat"]).dtype == torch.float32


def test_half_precision_takes_a_model_whose_layer_norms_want_float32(make_open_clip, pixels):
    import open_clip
    from open_clip.transformer import LayerNormFp32

    module = make_open_clip()
    expected = load_clip(module).dense_features(pixels)
    half = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=3, width=128, head_width=64, patch_size=16, image_size=64
        ),
        text_cfg=open_clip.CLIPTextCfg(width=64, heads=1, layers=1),
        cast_dtype=torch.float16,
    )
    half.load_state_dict(module.state_dict())
    open_clip.convert_weights_to_fp16(half)
    assert isinstance(half.visual.ln_post, LayerNormFp32)
    for dtype in (torch.float16, torch.float32):
        features = load_clip(half, dtype=dtype).dense_features(pixels)
        assert F.cosine_similarity(features.float(), expected, dim=-1).min() > 0.999


class Empty(nn.Module):
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attentional_pool": True}, "attentional pooling"),
        ({"qk_norm": True}, "block 0 is a CustomResidualAttentionBlock"),
    ],
)
def test_other_vision_transformers_are_refused(make_open_clip, change, message):
    module = make_open_clip(**change)
    with pytest.raises(TypeError, match=message) as error:
        load_clip(module)
    assert "Supported are plain vision transformers" in str(error.value)


def test_other_towers_are_refused(make_open_clip):
    with pytest.raises(TypeError, match="a ResNet"):
        load_clip(make_open_clip(layers=(1, 1, 1, 1), width=64))
    timm = Empty()
    timm.trunk = nn.Identity()
    with pytest.raises(TypeError, match="timm"):
        VisionTower(timm)
    with pytest.raises(TypeError, match="has no conv1, class_embedding"):
        VisionTower(Empty())
    module = make_open_clip()
    module.visual.proj = None
    with pytest.raises(TypeError, match="without the projection"):
        load_clip(module)
    module = make_open_clip()
    module.visual.positional_embedding = nn.Parameter(torch.zeros(12, 128))
    with pytest.raises(TypeError, match="12 positional embeddings"):
        load_clip(module)
    module = make_open_clip()
    module.visual.patch_size = (16, 8)
    with pytest.raises(TypeError, match="16 x 8 pixels"):
        load_clip(module)
