"""Trained decoders on disk."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import (
    load_segmenter,
    read_checkpoint_metadata,
    save_checkpoint,
)
from vpl_plugin.segmentation.decoder import Decoder


@pytest.fixture
def decoder(mini):
    pets = Prototypes(torch.randn(5, 256), ("cat", "dog"))
    made = Decoder.for_model(mini, pets, (0, 1), width=32, layers=1, heads=4)
    torch.nn.init.normal_(made.head.weight)
    return made


def save(path, decoder, mini, classes=("cat", "dog")):
    made_by = {"iterations": 7}
    save_checkpoint(path, decoder, model=mini, blocks=(0, -1), classes=classes, made_by=made_by)


def test_comes_back_as_it_was(decoder, mini, tmp_path):
    save(tmp_path / "d.safetensors", decoder, mini)
    segmenter = load_segmenter(tmp_path / "d.safetensors", mini)
    assert segmenter.classes == ("cat", "dog")
    assert segmenter.blocks == (0, 1)
    pixels = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected = decoder(mini.block_tokens(pixels, (0, 1)), (2, 4))
    assert torch.equal(segmenter.logits(pixels), expected.logits)
    assert torch.equal(segmenter.output(pixels).embeddings, expected.embeddings)
    assert not segmenter.decoder.training
    about = read_checkpoint_metadata(tmp_path / "d.safetensors")
    assert about["made_by"] == {"iterations": 7}
    assert about["encoder"]["name"] == "mini"


def test_another_encoder_is_refused(decoder, mini, tmp_path):
    save(tmp_path / "d.safetensors", decoder, mini)
    other = type("Other", (), {})()
    for name in ("patch_size", "token_width", "depth"):
        setattr(other, name, getattr(mini, name))
    other.name, other.embed_dim = "ViT-B-16", 512
    with pytest.raises(ValueError, match=r"another encoder \(name was 'mini', is 'ViT-B-16', emb"):
        load_segmenter(tmp_path / "d.safetensors", other)


def test_what_is_no_decoder_is_refused(decoder, mini, tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained decoder at"):
        load_segmenter(tmp_path / "missing.safetensors", mini)
    save_file({"prototypes": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="must be a trained decoder of the format"):
        load_segmenter(tmp_path / "other.safetensors", mini)
    save(tmp_path / "cut.safetensors", decoder, mini)
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_segmenter(tmp_path / "cut.safetensors", mini)
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        load_segmenter(tmp_path / "state.pt", mini)


def test_classes_must_be_as_many_as_the_decoders(decoder, mini, tmp_path):
    with pytest.raises(ValueError, match="2 foreground classes; got 1"):
        save(tmp_path / "d.safetensors", decoder, mini, classes=("cat",))
