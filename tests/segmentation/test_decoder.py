"""The decoder: where it starts, what its maps mean, and that it fits any encoder and grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.decoder import Decoder, class_maps


def make(prototypes=None, num_foreground=3, **settings):
    prototypes = torch.randn(5, 12) if prototypes is None else prototypes
    sizes = {"token_width": 8, "levels": 2, "width": 16, "layers": 1, "heads": 2}
    return Decoder(prototypes, num_foreground, **{**sizes, **settings})


def test_it_starts_with_the_prototypes_on_the_encoders_features(mini):
    """The maps of an untrained decoder are phase 1's softmax at the temperature."""
    rows = 3 * torch.randn(7, 256)
    prototypes = Prototypes(rows, tuple("abcd"), 0.05)
    decoder = Decoder.for_model(mini, prototypes, (0, 1), width=32, layers=1, heads=4, upsampling=1)
    pixels = torch.randn(2, 3, 48, 64)
    output = decoder(mini.block_tokens(pixels, (0, 1)), (3, 4))
    cosines = mini.dense_features(pixels) @ F.normalize(rows, dim=1).T
    every = (cosines / 0.05).softmax(dim=-1).transpose(1, 2).unflatten(2, (3, 4))
    ours = output.logits.softmax(dim=1)
    torch.testing.assert_close(ours[:, 1:], every[:, :4], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours[:, 0], every[:, 4:].sum(dim=1), atol=1e-4, rtol=1e-3)


def test_foreground_maps_are_products_with_the_prototypes():
    decoder = make()
    torch.nn.init.normal_(decoder.head.weight)
    output = decoder(torch.randn(2, 2, 6, 8), (2, 3))
    rows = decoder.prototypes
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    expected = torch.einsum("nd,bdhw->bnhw", rows, output.embeddings)
    torch.testing.assert_close(output.logits[:, 1:], expected[:, :3], atol=1e-4, rtol=1e-4)


def test_without_background_prototypes_the_background_map_is_zero():
    maps = class_maps(torch.randn(2, 4, 3, 3), torch.eye(4), num_foreground=4)
    assert maps.shape == (2, 5, 3, 3)
    assert not maps[:, 0].any()


@pytest.mark.parametrize("upsampling", [1, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (7, 3)])
def test_any_grid_will_do(grid, upsampling):
    decoder = make(upsampling=upsampling)
    output = decoder(torch.randn(2, 2, grid[0] * grid[1], 8), grid)
    assert output.embeddings.shape == (2, 12, grid[0] * upsampling, grid[1] * upsampling)
    assert output.logits.shape == (2, 4, grid[0] * upsampling, grid[1] * upsampling)


def test_a_trained_decoder_knows_where_a_patch_is():
    """Equal tokens everywhere: only their places can tell the outputs apart."""
    decoder = make(upsampling=1)
    torch.nn.init.normal_(decoder.head.weight)
    output = decoder(torch.ones(1, 2, 20, 8), (4, 5)).logits
    assert output.std(dim=(2, 3)).max() > 1e-4


def test_photos_of_a_batch_do_not_touch_each_other():
    decoder = make()
    torch.nn.init.normal_(decoder.head.weight)
    tokens = torch.randn(3, 2, 6, 8)
    together = decoder(tokens, (2, 3)).logits
    alone = decoder(tokens[1:2], (2, 3)).logits
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_prototypes_stay_and_everything_else_learns():
    decoder = make()
    assert "prototypes" not in dict(decoder.named_parameters())
    torch.nn.init.normal_(decoder.head.weight)
    output = decoder(torch.randn(2, 2, 6, 8), (2, 3))
    output.logits.log_softmax(dim=1)[:, 1].sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tokens_of_half_precision_and_autocast(dtype):
    decoder = make()
    torch.nn.init.normal_(decoder.head.weight, std=0.1)
    tokens = torch.randn(2, 2, 6, 8).to(dtype)
    plain = decoder(tokens, (2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        cast = decoder(tokens, (2, 3))
    assert plain.logits.dtype == cast.logits.dtype == cast.embeddings.dtype == torch.float32
    torch.testing.assert_close(cast.logits, plain.logits, atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prototypes": torch.zeros(5, 12)}, ValueError, "row 0 is all zeros"),
        ({"prototypes": torch.ones(5, 12).long()}, TypeError, "prototypes must be floating point"),
        ({"num_foreground": 6}, ValueError, "at most the number of prototypes, 5; got 6"),
        ({"num_foreground": 0}, ValueError, "num_foreground must be a whole number, 1 or more"),
        ({"heads": 3}, ValueError, "multiple of heads; got 16 and 3"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0"),
        ({"upsampling": 0}, ValueError, "upsampling must be a whole number"),
    ],
)
def test_bad_settings_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        make(**change)


def test_bad_tokens_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 2, 6, 8\) for the grid \(2, 3\); got .*7, 8\)"):
        make()(torch.zeros(1, 2, 7, 8), (2, 3))


def test_prototypes_of_another_encoder_are_refused(mini):
    with pytest.raises(ValueError, match=r"model's D = 256; got D = 512: .* another encoder"):
        Decoder.for_model(mini, Prototypes(torch.ones(3, 512), ("a", "b")), (0, 1))
