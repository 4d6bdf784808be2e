"""Loading by name, from files and from objects; bad input and hostile files."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

from vpl_plugin.clip import load_clip


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def openai_model(make_open_clip):
    return make_open_clip(quick_gelu=True)


@pytest.fixture
def openai_features(openai_model, pixels):
    return load_clip(openai_model).dense_features(pixels)


class OpenAIArchive(torch.nn.Module):
    """Carries the parameters under their names, and the three figures OpenAI notes beside them."""

    def __init__(self, model):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, value in (
            ("input_resolution", 64),
            ("context_length", 77),
            ("vocab_size", 49408),
        ):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.text_projection


def save_openai_file(kind, model, folder):
    path = folder / f"tiny-{kind}.pt"
    weights = model.state_dict()
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive = OpenAIArchive(copy.deepcopy(model))
            torch.jit.save(torch.jit.trace(archive, torch.ones(1, 64)), path)
    elif kind == "training checkpoint":
        named = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"epoch": 3, "state_dict": named}, path)
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif kind == "half":
        torch.save({name: value.half() for name, value in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("state dict", 1e-6),
        ("torchscript", 1e-6),
        ("training checkpoint", 1e-6),
        ("safetensors", 1e-6),
        ("half", 1e-2),
    ],
)
def test_openai_files(openai_model, openai_features, pixels, tmp_path, kind, tolerance):
    path = save_openai_file(kind, openai_model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_clip(path, device="cpu")
    features = model.dense_features(pixels)
    torch.testing.assert_close(features, openai_features, atol=tolerance, rtol=0)
    assert model.name == path.stem
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    texts = ["a cat", "a dog"]
    expected = load_clip(openai_model).encode_text(texts)
    torch.testing.assert_close(model.encode_text(texts), expected, atol=tolerance, rtol=0)


def test_a_hostile_pickle_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    path = tmp_path / "model.pt"
    for content in (Bomb(trap), {"text_projection": torch.zeros(2, 2), "x": Bomb(trap)}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"model\.pt holds other Python objects"):
            load_clip(path)
        path.write_bytes(pickle.dumps(content if isinstance(content, Bomb) else content["x"], 2))
        with pytest.raises(ValueError, match=r"model\.pt"):
            load_clip(path)
        with pytest.raises(ValueError, match=r"model\.pt"):
            load_clip("ViT-B-32", pretrained=path)
    assert not trap.exists()
    # The trap works: unpickling it for real springs it.
    with pickle.loads(pickle.dumps(Bomb(trap))):
        assert trap.exists()


def test_files_that_hold_something_else(tmp_path, make_open_clip):
    missing = tmp_path / "missing.pt"
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        load_clip(missing)
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        load_clip(str(missing))

    path = tmp_path / "file.pt"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"file\.pt"):
        load_clip(path)
    safetensors = tmp_path / "file.safetensors"
    safetensors.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"cannot read weights from .*file\.safetensors"):
        load_clip(safetensors)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="holds no state dict"):
        load_clip(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"no CLIP ViT .* it has no visual\.conv1\.weight"):
        load_clip(path)
    torch.save(make_open_clip(layers=(1, 1, 1, 1), width=64).state_dict(), path)
    with pytest.raises(ValueError, match="ResNet"):
        load_clip(path)
    weights = make_open_clip().state_dict()
    del weights["ln_final.bias"]
    weights["head"] = torch.zeros(())
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"2 places: no ln_final\.bias; unknown head"):
        load_clip(path)


def test_a_truncated_file_is_named(openai_model, tmp_path):
    path = save_openai_file("state dict", openai_model, tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="tiny-state dict"):
        load_clip(path)


def test_unknown_names_list_close_ones():
    with pytest.raises(ValueError, match=r"no model 'vit-b16'.*ViT-B-16"):
        load_clip("vit-b16")
    with pytest.raises(ValueError, match="'mini'"):
        load_clip("")
    with pytest.raises(TypeError, match="got 3"):
        load_clip(3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("RN50", "a ResNet"), ("ViT-B-16-SigLIP", "the timm model"), ("coca_ViT-B-32", "attentional")],
)
def test_unsupported_architectures_are_refused_before_they_are_built(monkeypatch, name, kind):
    import open_clip

    monkeypatch.setattr(open_clip, "create_model", pytest.fail)
    with pytest.raises(TypeError, match=f"{name} is .*{kind}"):
        load_clip(name, pretrained="openai")


@pytest.fixture
def created(monkeypatch, make_open_clip):
    """What open_clip is asked to create, answered with a tiny model."""
    import open_clip

    calls = []

    def create_model(name, pretrained=None, **options):
        calls.append((name, pretrained, options))
        return make_open_clip(quick_gelu=options.get("force_quick_gelu", False))

    monkeypatch.setattr(open_clip, "create_model", create_model)
    return calls


@pytest.mark.parametrize(("tag", "quick_gelu"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_a_tag_brings_the_activation_it_was_trained_with(created, tag, quick_gelu):
    model = load_clip("ViT-B/16", pretrained=tag, device="cpu")
    ((name, pretrained, options),) = created
    assert (name, pretrained) == ("ViT-B-16", tag)
    assert options == {"force_quick_gelu": quick_gelu, "weights_only": True}
    assert model.name == "ViT-B-16"


def test_an_unknown_tag_lists_those_there_are(created):
    with pytest.raises(ValueError, match="no tag of ViT-B-16, whose tags are openai, "):
        load_clip("ViT-B-16", pretrained="opnai")
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        load_clip("ViT-B-16", pretrained="gone.pt")


@pytest.mark.parametrize("kind", ["state dict", "torchscript"])
def test_a_file_of_weights_for_a_named_architecture(
    created, make_open_clip, pixels, tmp_path, kind
):
    # A TorchScript archive is OpenAI's, with QuickGELU; other files follow the configuration.
    source = make_open_clip(quick_gelu=kind == "torchscript", ls_init_value=None)
    with torch.no_grad():
        source.visual.proj.mul_(2).add_(0.1)
    path = save_openai_file(kind, source, tmp_path)
    model = load_clip("ViT-B-16", pretrained=str(path), device="cpu")
    expected = load_clip(source).dense_features(pixels)
    torch.testing.assert_close(model.dense_features(pixels), expected)


def test_random_weights_are_announced(created, caplog):
    with caplog.at_level(logging.WARNING):
        load_clip("ViT-B-16", device="cpu")
    assert "ViT-B-16 gets random weights" in caplog.text


def test_a_real_open_clip_architecture_by_name():
    model = load_clip("ViT-S-32", device="cpu")
    pixels = torch.zeros(1, 3, 64, 96)
    assert (model.patch_size, model.embed_dim) == (32, 384)
    assert model.dense_features(pixels).shape == (1, 6, 384)
    assert model.tokens_before_last_block(pixels).attention.shape == (1, 7, 6, 6)
    assert model.encode_text(["a cat"]).shape == (1, 384)


def test_pretrained_goes_with_names_only(mini, openai_model, tmp_path):
    for other in ("mini", mini, openai_model, tmp_path / "file.pt"):
        with pytest.raises(ValueError, match="pretrained goes with the name"):
            load_clip(other, pretrained="openai")


def test_a_device_that_is_not_there_is_named_before_weights_are_looked_for(mini):
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        load_clip("no-such-model", device="gpu")
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used here"):
        load_clip(mini, device="cuda:99")


def test_a_clip_model_is_returned_as_it_is(mini):
    assert load_clip(mini) is mini


def test_a_model_object_is_left_as_it_is(make_open_clip, pixels):
    module = make_open_clip().train()
    model = load_clip(module, dtype=torch.bfloat16)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    module.encode_image(pixels).sum().backward()
    assert module.visual.proj.grad is not None


def test_a_model_object_shares_its_weights(make_open_clip):
    module = make_open_clip()
    model = load_clip(module)
    assert model.module.visual.proj.data_ptr() == module.visual.proj.data_ptr()


def test_a_model_with_a_text_tower_of_its_own_attribute(make_open_clip):
    import open_clip

    module = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=2, width=64, head_width=64, patch_size=16, image_size=64
        ),
        text_cfg=open_clip.CLIPTextCfg(width=64, heads=1, layers=1),
    )
    assert load_clip(module).encode_text(["a cat"]).shape == (1, 32)


def test_another_vocabulary_needs_a_tokenizer(make_open_clip):
    module = make_open_clip()
    module.vocab_size = 32000
    with pytest.raises(ValueError, match=r"tokenizer is needed.*32000"):
        load_clip(module)
    seen = []

    def tokenizer(texts):
        seen.extend(texts)
        return torch.ones(len(texts), 77, dtype=torch.long)

    assert load_clip(module, tokenizer=tokenizer).encode_text(["a", "b"]).shape == (2, 32)
    assert seen == ["a", "b"]


def test_an_object_that_is_no_clip_model():
    with pytest.raises(TypeError, match="Linear has no visual, encode_text, logit_scale"):
        load_clip(torch.nn.Linear(2, 2))


def test_the_models_own_normalisation_is_used(make_open_clip):
    import numpy as np

    module = make_open_clip()
    module.visual.image_mean, module.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    white = np.full((16, 16, 3), 255, np.uint8)
    torch.testing.assert_close(load_clip(module).preprocess(white), torch.ones(3, 16, 16))


def test_importing_the_package_is_light():
    code = (
        "import sys, vpl_plugin.clip as clip; clip.load_clip('mini', device='cpu');"
        "heavy = {'open_clip', 'torchvision', 'timm', 'matplotlib', 'transformers', 'cv2'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
