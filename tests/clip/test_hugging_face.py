"""CLIP as Hugging Face has it gives what open_clip gives with the same weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vpl_plugin.adapters.clip_es import encode_photo, photo_cams
from vpl_plugin.clip import VOC, class_prototypes, load_clip
from vpl_plugin.clip.vision_tower import UnsupportedModelError

transformers = pytest.importorskip(
    "transformers", reason="Hugging Face's models need the extra hf (transformers)"
)

TOLERANCE = {"atol": 1e-5, "rtol": 0}
TEXTS = ["a cat", "a photo of a dog, asleep"]
HEADS = {"vision": 4, "text": 2}


def hf_config(activation="quick_gelu", **vision):
    shared = {"hidden_act": activation, "intermediate_size": 200, "layer_norm_eps": 1e-4}
    return transformers.CLIPConfig(
        text_config={
            "hidden_size": 64,
            "num_attention_heads": HEADS["text"],
            "num_hidden_layers": 2,
            "vocab_size": 49408,
            **shared,
        },
        vision_config={
            "hidden_size": 128,
            "num_attention_heads": HEADS["vision"],
            "num_hidden_layers": 3,
            "image_size": 64,
            "patch_size": 16,
            **shared,
            **vision,
        },
        projection_dim=32,
    )


def hf_model(activation="quick_gelu", **vision):
    """A CLIPModel whose every weight is random, biases and layer norms too."""
    config = hf_config(activation, **vision)
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "logit_scale":
                    parameter.copy_(0.05 * torch.randn_like(parameter))
                    if "norm" in name and name.endswith("weight"):
                        parameter.add_(1)
    return model


def copy_linear(target, source):
    target.weight.data.copy_(source.weight)
    target.bias.data.copy_(source.bias)


def copy_blocks(blocks, layers):
    for block, layer in zip(blocks, layers, strict=True):
        thirds = [getattr(layer.self_attn, f"{which}_proj") for which in "qkv"]
        width = len(thirds[0].weight)
        for index, third in enumerate(thirds):
            rows = slice(index * width, (index + 1) * width)
            block.attn.in_proj_weight.data[rows] = third.weight
            block.attn.in_proj_bias.data[rows] = third.bias
        copy_linear(block.attn.out_proj, layer.self_attn.out_proj)
        copy_linear(block.mlp.c_fc, layer.mlp.fc1)
        copy_linear(block.mlp.c_proj, layer.mlp.fc2)
        copy_linear(block.ln_1, layer.layer_norm1)
        copy_linear(block.ln_2, layer.layer_norm2)


def same_in_open_clip(model):
    """open_clip's CLIP with the weights of a CLIPModel, put there part by part."""
    import open_clip

    quick_gelu = model.config.vision_config.hidden_act == "quick_gelu"
    ratio = {"vision": 200.5 / 128, "text": 200.5 / 64}
    other = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={
            "layers": 3,
            "width": 128,
            "head_width": 128 // HEADS["vision"],
            "mlp_ratio": ratio["vision"],
            "patch_size": 16,
            "image_size": 64,
        },
        text_cfg={
            "width": 64,
            "heads": HEADS["text"],
            "layers": 2,
            "mlp_ratio": ratio["text"],
            "vocab_size": 49408,
        },
        quick_gelu=quick_gelu,
    ).eval()
    vision, text, visual = model.vision_model, model.text_model, other.visual
    visual.class_embedding.data.copy_(vision.embeddings.class_embedding)
    visual.conv1.weight.data.copy_(vision.embeddings.patch_embedding.weight)
    visual.positional_embedding.data.copy_(vision.embeddings.position_embedding.weight)
    copy_linear(visual.ln_pre, vision.pre_layrnorm)
    copy_blocks(visual.transformer.resblocks, vision.encoder.layers)
    copy_linear(visual.ln_post, vision.post_layernorm)
    visual.proj.data.copy_(model.visual_projection.weight.T)
    other.token_embedding.weight.data.copy_(text.embeddings.token_embedding.weight)
    other.positional_embedding.data.copy_(text.embeddings.position_embedding.weight)
    copy_blocks(other.transformer.resblocks, text.encoder.layers)
    copy_linear(other.ln_final, text.final_layer_norm)
    other.text_projection.data.copy_(model.text_projection.weight.T)
    other.logit_scale.data.copy_(model.logit_scale)
    for layer in other.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-4
    return other


@pytest.fixture(scope="module")
def model():
    return hf_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "clip-v1.5"
    model.save_pretrained(path)
    return path


def everything(clip, pixels):
    """Features, attention, texts and CAMs, all that the rest of the package takes of a model."""
    tokens = clip.tokens_before_last_block(pixels)
    photo = (torch.rand(70, 100, 3, generator=torch.Generator().manual_seed(1)) * 255).byte()
    encoded = encode_photo(clip, photo.numpy(), [7, 14])
    cams = photo_cams(clip, encoded, class_prototypes(clip, VOC))
    return {
        "features": clip.dense_features(pixels),
        "attention": tokens.attention,
        "tokens": tokens.tokens,
        "texts": clip.encode_text(TEXTS),
        "raw CAMs": cams.raw,
        "refined CAMs": cams.refined,
    }


def sources(model, folder, tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    torch.save(model.state_dict(), bin_folder / "pytorch_model.bin")
    shutil.copy(folder / "config.json", bin_folder)
    shards = tmp_path / "shards"
    model.save_pretrained(shards, max_shard_size="100KB")
    assert (shards / "model.safetensors.index.json").is_file()
    lightning = tmp_path / "lightning"
    lightning.mkdir()
    named = {f"model.{name}": value for name, value in model.state_dict().items()}
    # An index that versions before 4.31 stored beside the weights.
    named["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save({"state_dict": named, "epoch": 1}, lightning / "last.ckpt")
    shutil.copy(folder / "config.json", lightning)
    return {
        "object": model,
        "folder": folder,
        "folder as text": str(folder),
        "safetensors": folder / "model.safetensors",
        "bin": bin_folder / "pytorch_model.bin",
        "folder with bin": bin_folder,
        "shards": shards,
        "Lightning": lightning / "last.ckpt",
    }


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_same_weights_give_the_same_as_in_open_clip(activation, pixels, tmp_path):
    hf = hf_model(activation)
    folder = tmp_path / "saved"
    hf.save_pretrained(folder)
    expected = everything(load_clip(same_in_open_clip(hf)), pixels)
    for kind, source in sources(hf, folder, tmp_path).items():
        found = everything(load_clip(source, device="cpu"), pixels)
        for what, value in expected.items():
            torch.testing.assert_close(
                found[what], value, **TOLERANCE, msg=lambda m, at=f"{kind}, {what}": f"{at}: {m}"
            )


def test_it_computes_what_transformers_computes(model, pixels):
    clip = load_clip(model)
    with torch.no_grad():
        seen = model.vision_model(pixels, output_attentions=True)
        patches = model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
        features = nn.functional.normalize(model.visual_projection(patches), dim=-1)
        ids = clip.tokenizer(TEXTS)
        texts = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    torch.testing.assert_close(clip.dense_features(pixels), features, **TOLERANCE)
    attention = torch.stack(seen.attentions[:-1], dim=1).mean(dim=2)[..., 1:, 1:]
    found = clip.tokens_before_last_block(pixels).attention
    torch.testing.assert_close(found, attention, **TOLERANCE)
    texts = nn.functional.normalize(texts, dim=-1)
    torch.testing.assert_close(clip.encode_text(TEXTS), texts, **TOLERANCE)
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_a_model_object_is_left_as_it_is(model, pixels):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip = load_clip(model, dtype=torch.bfloat16)
    with torch.no_grad():
        clip.module.visual.proj.zero_()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_names_of_the_models(model, folder):
    assert load_clip(model).name == "CLIPModel"
    assert load_clip(folder, device="cpu").name == "clip-v1.5"
    assert load_clip(folder / "model.safetensors", device="cpu").name == "model"


def test_pixels_are_normalised_as_the_folder_says(folder, tmp_path):
    import numpy as np

    other = shutil.copytree(folder, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    white = np.full((16, 16, 3), 255, np.uint8)
    clip = load_clip(other, device="cpu")
    torch.testing.assert_close(clip.preprocess(white), torch.full((3, 16, 16), 2.0))


def test_weights_alone_are_taken_for_openais_and_it_is_logged(folder, tmp_path, caplog):
    source = load_clip(folder, device="cpu")
    alone = tmp_path / "model.safetensors"
    shutil.copy(folder / "model.safetensors", alone)
    clip = load_clip(alone, device="cpu")
    assert "does not say its activation: QuickGELU" in caplog.text
    assert "does not say its heads: of 64 channels each" in caplog.text
    assert clip.module.visual.transformer.resblocks[0].attn.num_heads == 2
    assert source.module.visual.transformer.resblocks[0].attn.num_heads == 4


def test_an_architecture_by_name_takes_hugging_faces_file(monkeypatch, folder, model, pixels):
    import open_clip

    asked = {}

    def create_model(name, **options):
        asked.update(options)
        return same_in_open_clip(hf_model("gelu"))

    monkeypatch.setattr(open_clip, "create_model", create_model)
    clip = load_clip("ViT-B-16", pretrained=folder / "model.safetensors", device="cpu")
    assert asked == {"force_quick_gelu": True, "force_image_size": 64}
    expected = load_clip(model).dense_features(pixels)
    torch.testing.assert_close(clip.dense_features(pixels), expected, **TOLERANCE)


@pytest.fixture
def hub(tmp_path, folder, monkeypatch):
    """A cache of the hub that holds one model, and no network."""
    import huggingface_hub

    snapshot = tmp_path / "models--openai--clip-vit-base-patch16" / "snapshots" / "57c2164"
    shutil.copytree(folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("57c2164")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_name_of_the_hub(hub, model, pixels, weights):
    if weights.endswith(".bin"):
        torch.save(load_file(hub / "model.safetensors"), hub / weights)
        (hub / "model.safetensors").unlink()
    clip = load_clip("openai/clip-vit-base-patch16", device="cpu")
    assert clip.name == "openai/clip-vit-base-patch16"
    expected = load_clip(model).dense_features(pixels)
    torch.testing.assert_close(clip.dense_features(pixels), expected, **TOLERANCE)


def test_a_name_of_the_hub_that_cannot_be_reached(hub):
    with pytest.raises(
        ConnectionError,
        match=r"^'openai/other' is neither a file nor a folder here, and .* Without a net",
    ) as found:
        load_clip("openai/other", device="cpu")
    assert "\n" not in str(found.value)
    (hub / "model.safetensors").unlink()
    with pytest.raises(ConnectionError, match="clip-vit-base-patch16"):
        load_clip("openai/clip-vit-base-patch16", device="cpu")


def test_other_models_of_hugging_face_are_refused(folder, tmp_path):
    vision = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(UnsupportedModelError, match="'clip_vision_model'; of Hugging Face"):
        load_clip(vision)
    other = shutil.copytree(folder, tmp_path / "siglip")
    config = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(UnsupportedModelError, match=r"config\.json describes .* 'siglip'"):
        load_clip(other, device="cpu")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_config", {"num_attention_heads": 5}, "does not split into 5 heads"),
        ("vision_config", {"num_attention_heads": "4"}, "num_attention_heads must be 1 or more"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act must be 'quick_gelu' or 'gelu'"),
        ("text_config", {"layer_norm_eps": None}, "layer_norm_eps must lie in"),
        ("vision_config", None, "must hold an object as vision_config"),
    ],
)
def test_a_configuration_that_fits_nothing(folder, tmp_path, section, change, message):
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config[section] = "nothing" if change is None else {**config[section], **change}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_clip(other, device="cpu")


def test_folders_and_files_that_do_not_hold_it_whole(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not readable JSON"):
        load_clip(other, device="cpu")
    (other / "config.json").write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(ValueError, match="no configuration of a model"):
        load_clip(other, device="cpu")
    (other / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights of Hugging Face"):
        load_clip(str(other), device="cpu")
    (other / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.bin"}}')
    with pytest.raises(ValueError, match="must name the files beside it"):
        load_clip(other, device="cpu")
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="takes q, k and v of one shape"):
        load_clip(tmp_path / "part.safetensors", device="cpu")


def test_another_vocabulary_comes_with_the_tokenizer_of_its_folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    config = hf_config()
    config.text_config.vocab_size = 8
    config.text_config.eos_token_id = 1
    config.text_config.max_position_embeddings = 7
    hf = transformers.CLIPModel(config).eval()
    hf.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer in"):
        load_clip(tmp_path, device="cpu")
    words = {"[PAD]": 0, "[END]": 1, "[UNK]": 2, "a": 3, "cat": 4, "dog": 5}
    own = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    clip = load_clip(tmp_path, device="cpu")
    texts = ["a cat", "dog"]
    assert clip.tokenizer(texts).tolist() == [[3, 4, 1, 0, 0, 0, 0], [5, 1, 0, 0, 0, 0, 0]]
    with torch.no_grad():
        pooled = hf.text_model(input_ids=clip.tokenizer(texts)).pooler_output
        expected = nn.functional.normalize(hf.text_projection(pooled), dim=-1)
    torch.testing.assert_close(clip.encode_text(texts), expected, **TOLERANCE)


def test_clips_own_vocabulary_takes_no_transformers(folder):
    code = (
        "import sys; sys.modules['transformers'] = None; from vpl_plugin import load_clip;"
        f"load_clip({str(folder)!r}, device='cpu').encode_text(['a cat'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_without_transformers_names_the_extra(tmp_path, monkeypatch):
    config = hf_config()
    config.text_config.vocab_size = 8
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="no tokenizer in"):
        load_clip(tmp_path, device="cpu")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'vpl_plugin\[hf\]'"):
        load_clip(tmp_path, device="cpu")
