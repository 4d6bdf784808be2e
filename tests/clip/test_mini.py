"""The embedded model gives what its original module gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vpl_plugin.clip import CLIP_ES, COCO, ENSEMBLE, VOC, open_photo, text_prototypes
from vpl_plugin.clip import preprocess as preprocess_photo
from vpl_plugin.clip.mini import load_mini

GOLDEN_PHOTOS = ("2007_000648", "2007_000836")


def largest_difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float((ours - torch.from_numpy(theirs)).abs().max())


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).with_name("golden_mini.npz"), allow_pickle=False) as arrays:
        return dict(arrays)


def test_every_step_of_the_vision_tower_matches_the_original(mini, golden):
    pixels = mini.preprocess(golden["photo"])[None]
    tokens = mini.tokens_before_last_block(pixels)
    activations = mini.last_block_norm(tokens.tokens)
    output, attention = mini.after_norm(tokens.tokens, activations)

    assert tokens.grid == (3, 4)
    assert largest_difference(mini.module.visual.conv1(pixels)[0], golden["stem"]) < 1e-4
    assert largest_difference(tokens.tokens[0], golden["tokens"]) < 1e-4
    first = golden["first_attention"][None, 1:, 1:]
    assert largest_difference(tokens.attention[0], first) < 1e-5
    assert largest_difference(activations[0], golden["activations"]) < 1e-4
    assert largest_difference(output[0], golden["output"]) < 1e-4
    assert largest_difference(attention[0], golden["last_attention"][1:, 1:]) < 1e-5
    assert largest_difference(mini.project(output)[0], golden["projected"]) < 1e-3
    unit = golden["projected"] / np.linalg.norm(golden["projected"], axis=-1, keepdims=True)
    assert largest_difference(mini.dense_features(pixels)[0], unit) < 1e-5


def test_position_dtype_rounds_the_positions_as_clip_es_does(mini, golden):
    pixels = mini.preprocess(golden["photo"])[None]
    rounded = mini.tokens_before_last_block(pixels, position_dtype=torch.float16).tokens[0]
    theirs = golden["tokens_rounded_positions"]
    assert largest_difference(rounded, theirs) < 2e-5
    # The rounding itself is larger than what the comparison above tolerates.
    assert np.abs(theirs - golden["tokens"]).max() > 5e-5


def test_texts_match_the_original(mini, golden):
    embeddings = mini.encode_text(golden["texts"].tolist())
    assert largest_difference(embeddings, golden["text_embeddings"]) < 1e-5


def test_the_weights_file_stays_small():
    import vpl_plugin.clip

    folder = Path(vpl_plugin.clip.__file__).parent / "weights"
    assert (folder / "mini_clip.safetensors").stat().st_size <= 25e6
    assert (folder / "MODEL_CARD.md").is_file()


def test_the_towers_are_frozen_and_in_eval_mode(mini):
    assert not mini.module.training
    assert not any(parameter.requires_grad for parameter in mini.module.parameters())


@pytest.mark.shared
def test_texts_match_the_golden_outputs(mini, shared_dir):
    golden = np.load(shared_dir / "mini_clip/golden.npz", allow_pickle=False)
    names = golden["text/names"].tolist()
    assert names == [*VOC.prompts, *VOC.background]
    assert golden["text/ensemble_templates"].tolist() == list(ENSEMBLE)
    origami = text_prototypes(mini, names, CLIP_ES)
    ensemble = text_prototypes(mini, names, ENSEMBLE)
    assert largest_difference(origami, golden["text/origami"]) < 1e-4
    assert largest_difference(ensemble, golden["text/ensemble"]) < 1e-4
    assert mini.logit_scale == pytest.approx(float(golden["logit_scale"]), rel=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN_PHOTOS)
def test_photos_match_the_golden_outputs(mini, shared_dir, name):
    golden = np.load(shared_dir / "mini_clip/golden.npz", allow_pickle=False)
    photo = open_photo(shared_dir / f"golden/voc/JPEGImages/{name}.jpg")
    pixels = mini.preprocess(photo)
    tokens = mini.tokens_before_last_block(pixels[None])
    assert largest_difference(pixels[:, :64, :64], golden[f"{name}/pixels"]) < 1e-6
    assert tokens.grid == tuple(golden[f"{name}/grid"])
    stem = mini.module.visual.conv1(pixels[None])[0]
    assert largest_difference(stem, golden[f"{name}/stem"]) < 1e-4
    tokens_golden = golden[f"{name}/tokens_before_last_block"]
    assert largest_difference(tokens.tokens[0], tokens_golden) < 1e-4
    features = mini.dense_features(pixels[None])[0]
    assert largest_difference(features, golden[f"{name}/features"]) < 1e-4


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN_PHOTOS)
def test_attention_matches_the_original_module(mini, shared_dir, name):
    # The golden row is the class token's, which the patch-to-patch map leaves out.
    folder = shared_dir / "mini_clip"
    spec = importlib.util.spec_from_file_location("reference_model", folder / "reference_model.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    model = reference.load(folder / "mini_clip.pt")
    golden = np.load(folder / "golden.npz", allow_pickle=False)
    photo = open_photo(shared_dir / f"golden/voc/JPEGImages/{name}.jpg")
    pixels = preprocess_photo(photo)[None]
    with torch.no_grad():
        embedded = model.visual.embed(model.visual.conv1(pixels))
        _, theirs = model.visual.transformer.resblocks[0](embedded, need_weights=True)
    row = golden[f"{name}/attention_first_block_row0"]
    assert np.abs(theirs[0, 0].numpy() - row).max() < 1e-5
    ours = mini.tokens_before_last_block(pixels).attention[0, 0]
    assert largest_difference(ours, theirs[0, 1:, 1:].numpy()) < 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.99999), (torch.bfloat16, 0.99)])
def test_cuda_agrees_with_the_cpu(mini, golden, cuda, dtype, least):
    from vpl_plugin.clip import load_clip

    model = load_clip("mini", device=cuda, dtype=dtype)
    pixels = model.preprocess(golden["photo"])[None]
    assert pixels.device.type == "cuda"
    on_cuda = model.dense_features(pixels).float().cpu()
    assert F.cosine_similarity(on_cuda, mini.dense_features(pixels.cpu()), dim=-1).min() > least
    names = COCO.labels
    texts = text_prototypes(model, names).cpu()
    assert torch.allclose(texts, text_prototypes(mini, names), atol=1e-4)


def test_every_call_of_load_mini_gives_a_model_of_its_own():
    first, second = load_mini(), load_mini()
    with torch.no_grad():
        first.text_projection.zero_()
    assert second.text_projection.abs().max() > 0
