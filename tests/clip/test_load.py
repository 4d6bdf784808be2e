"""Loading by name, from files and from objects; bad input and hostile files."""

from __future__ import annotations

import copy
import json
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
    source = make_open_clip(quick_gelu=True, ls_init_value=None)
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


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module.module.", "model.", "_orig_mod.module.", "clip_model."],
)
@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict"])
def test_what_training_scripts_put_around_weights_is_taken_off(
    openai_model, openai_features, pixels, tmp_path, prefix, container
):
    weights = {f"{prefix}{name}": value for name, value in openai_model.state_dict().items()}
    path = tmp_path / "tiny.pt"
    torch.save({container: weights, "epoch": 3} if container else weights, path)
    features = load_clip(path, device="cpu").dense_features(pixels)
    torch.testing.assert_close(features, openai_features)


def test_an_unknown_prefix_is_shown(openai_model, created, tmp_path):
    path = tmp_path / "tiny.pt"
    named = {f"backbone.{name}": value for name, value in openai_model.state_dict().items()}
    torch.save(named, path)
    for source in ({"name_or_path": path}, {"name_or_path": "ViT-B-16", "pretrained": path}):
        with pytest.raises(ValueError, match="own names begin with: backbone") as found:
            load_clip(**source)
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 700


def test_the_same_name_under_two_prefixes_is_refused(openai_model, tmp_path):
    weights = openai_model.state_dict()
    torch.save({**weights, "module.visual.proj": weights["visual.proj"]}, tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"holds visual\.proj more than once"):
        load_clip(tmp_path / "tiny.pt")


@pytest.mark.parametrize("by_name", [False, True])
def test_logit_bias_is_left_out(openai_model, openai_features, created, pixels, tmp_path, by_name):
    path = tmp_path / "tiny.pt"
    torch.save({**openai_model.state_dict(), "logit_bias": torch.tensor(-10.0)}, path)
    name = {"name_or_path": "ViT-B-16-quickgelu", "pretrained": path}
    model = load_clip(**(name if by_name else {"name_or_path": path}), device="cpu")
    torch.testing.assert_close(model.dense_features(pixels), openai_features)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c\nsize 605247071\n"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (LFS, "git-lfs pointer, not the weights: run 'git lfs pull'"),
        (b"\n<!DOCTYPE html>\n<html lang='en'>", "is a web page, not weights"),
        (b"\xef\xbb\xbf<HTML><head>", "is a web page, not weights"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is an XML document, not weights"),
        (b'{"error": "Entry not found"}', "is JSON text, not weights"),
        (b"Entry not found", "cannot read weights from|holds other Python objects"),
    ],
)
def test_what_is_downloaded_instead_of_weights_is_named(tmp_path, content, message, suffix):
    path = tmp_path / f"ViT-B-16{suffix}"
    path.write_bytes(content)
    for source in ({"name_or_path": path}, {"name_or_path": "ViT-B-32", "pretrained": path}):
        with pytest.raises(ValueError, match=message) as found:
            load_clip(**source)
        assert str(path) in str(found.value)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["state dict", "torchscript", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_file_is_said_to_be_truncated(openai_model, tmp_path, kind, share):
    path = save_openai_file(kind, openai_model, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"tiny-.*is truncated.*: copy or download it again"):
        load_clip(path)


def test_the_content_and_not_the_name_says_what_a_file_is(
    openai_model, openai_features, pixels, tmp_path
):
    for kind, name in (("safetensors", "weights.bin"), ("state dict", "weights.safetensors")):
        path = save_openai_file(kind, openai_model, tmp_path).rename(tmp_path / name)
        features = load_clip(path, device="cpu").dense_features(pixels)
        torch.testing.assert_close(features, openai_features)


def test_whole_numbers_are_no_weights(openai_model, tmp_path):
    weights = openai_model.state_dict()
    weights["visual.proj"] = (100 * weights["visual.proj"]).to(torch.int8)
    torch.save(weights, tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"visual\.proj of torch\.int8"):
        load_clip(tmp_path / "tiny.pt")


def test_a_shape_larger_than_its_data_is_refused(openai_model, tmp_path):
    weights = openai_model.state_dict()
    weights["text_projection"] = torch.zeros(1).expand(64, 2**40)
    torch.save(weights, tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match="text_projection is larger than its data"):
        load_clip(tmp_path / "tiny.pt")


def test_the_tuple_of_create_model_and_transforms(make_open_clip):
    with pytest.raises(TypeError, match="pass the model alone, its first item") as found:
        load_clip((make_open_clip(), None, None))
    assert "\n" not in str(found.value)
    with pytest.raises(TypeError, match="got an object of type OrderedDict"):
        load_clip(make_open_clip().state_dict())


def test_what_is_put_around_a_model_object_is_taken_off(openai_model, openai_features, pixels):
    for wrapped in (torch.nn.DataParallel(openai_model), torch.compile(openai_model)):
        model = load_clip(wrapped, device="cpu")
        assert model.name == "CLIP"
        torch.testing.assert_close(model.dense_features(pixels), openai_features)


@pytest.fixture
def fine_tuned(openai_model, tmp_path):
    """A state dict of the same model fine-tuned on photos of 96 pixels instead of 64."""
    from vpl_plugin.clip.vision_tower import resize_positions

    weights = dict(openai_model.state_dict())
    name = "visual.positional_embedding"
    weights[name] = resize_positions(weights[name], (4, 4), (6, 6)).clone()
    torch.save(weights, tmp_path / "tuned.pt")
    return tmp_path / "tuned.pt"


def test_a_fine_tune_at_another_size_loads_by_name_as_by_path(monkeypatch, fine_tuned, pixels):
    import open_clip

    config = {
        "embed_dim": 32,
        "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1},
    }
    for module in (open_clip, open_clip.factory):
        monkeypatch.setattr(module, "list_models", lambda: ["ViT-tiny"])
        monkeypatch.setattr(module, "get_model_config", lambda _: copy.deepcopy(config))
    by_path = load_clip(fine_tuned, device="cpu")
    by_name = load_clip("ViT-tiny-quickgelu", pretrained=fine_tuned, device="cpu")
    assert by_name.name == "ViT-tiny-quickgelu"
    expected = by_path.dense_features(pixels)
    torch.testing.assert_close(by_name.dense_features(pixels), expected, atol=1e-6, rtol=0)
    texts = by_path.encode_text(["a cat"])
    torch.testing.assert_close(by_name.encode_text(["a cat"]), texts)
    plain = load_clip("ViT-tiny", pretrained=fine_tuned, device="cpu")
    torch.testing.assert_close(plain.dense_features(pixels), expected, atol=1e-6, rtol=0)
    # And so it is with GELU.
    by_path = load_clip(fine_tuned, device="cpu", quick_gelu=False)
    plain = load_clip("ViT-tiny", pretrained=fine_tuned, device="cpu", quick_gelu=False)
    with_gelu = by_path.dense_features(pixels)
    torch.testing.assert_close(plain.dense_features(pixels), with_gelu, atol=1e-6, rtol=0)
    assert not torch.allclose(with_gelu, expected, atol=1e-4)


def test_a_real_architecture_fine_tuned_at_320_pixels_loads_by_name_as_by_path(
    monkeypatch, tmp_path
):
    import open_clip

    # The vision tower is the real one; the text tower is a small one for the memory's sake.
    config = open_clip.get_model_config("ViT-B-16")
    config["text_cfg"].update(width=64, heads=1, layers=1)
    for module in (open_clip, open_clip.factory):
        monkeypatch.setattr(module, "get_model_config", lambda _: copy.deepcopy(config))

    def tuned():
        model = open_clip.create_model("ViT-B-16", force_image_size=320)
        return {name: value.bfloat16() for name, value in model.state_dict().items()}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(tuned(), tmp_path / "tuned.pt")
        pixels = torch.randn(1, 3, 320, 320)

    def features(*source):
        model = load_clip(*source, device="cpu")
        assert model.module.visual.positional_embedding.shape == (1 + 20 * 20, 768)
        return model.dense_features(pixels), model.encode_text(["a cat"])

    by_path = features(tmp_path / "tuned.pt")
    by_name = features("ViT-B-16", tmp_path / "tuned.pt")
    torch.testing.assert_close(by_name, by_path, atol=1e-6, rtol=0)


def activation(model):
    return type(model.module.visual.transformer.resblocks[0].mlp.gelu).__name__


@pytest.mark.parametrize(
    ("kind", "name", "expected", "said"),
    [
        ("state dict", None, "QuickGELU", "does not say its activation: QuickGELU"),
        ("torchscript", None, "QuickGELU", "QuickGELU, as the file is one of OpenAI's"),
        ("torchscript", "ViT-B-16", "QuickGELU", "QuickGELU, as the file is one of OpenAI's"),
        ("state dict", "ViT-B-16", "QuickGELU", "does not say its activation: QuickGELU"),
        ("safetensors", "ViT-B/16", "QuickGELU", "trained with GELU pass quick_gelu=False"),
        ("state dict", "ViT-B-16-quickgelu", "QuickGELU", "QuickGELU, as asked for"),
        # open_clip has no architecture of this name; its "-quickgelu" is a word of ours too.
        ("state dict", "ViT-S-16-quickgelu", "QuickGELU", "QuickGELU, as asked for"),
    ],
)
def test_the_activation_of_a_file_follows_one_rule_that_is_logged(
    created, openai_model, tmp_path, caplog, kind, name, expected, said
):
    path = save_openai_file(kind, openai_model, tmp_path)
    with caplog.at_level(logging.INFO):
        model = load_clip(name or path, pretrained=path if name else None, device="cpu")
    assert activation(model) == expected
    assert said in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize("name", [None, "ViT-B-16"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_the_caller_says_the_activation_that_a_file_does_not(
    created, openai_model, tmp_path, caplog, name, quick_gelu
):
    path = save_openai_file("state dict", openai_model, tmp_path)
    source = {"name_or_path": name, "pretrained": path} if name else {"name_or_path": path}
    with caplog.at_level(logging.INFO):
        model = load_clip(**source, device="cpu", quick_gelu=quick_gelu)
    assert activation(model) == ("QuickGELU" if quick_gelu else "GELU")
    assert f"{path}: {activation(model)}, as asked for" in caplog.text
    assert "does not say its activation" not in caplog.text


@pytest.mark.parametrize("name", [None, "ViT-B-16"])
def test_open_clips_configuration_beside_a_file_says_its_activation(
    created, openai_model, tmp_path, caplog, name
):
    path = save_openai_file("state dict", openai_model, tmp_path)
    source = {"name_or_path": name, "pretrained": path} if name else {"name_or_path": path}
    config = tmp_path / "open_clip_config.json"
    for content, expected in (({}, "GELU"), ({"quick_gelu": True}, "QuickGELU")):
        config.write_text(json.dumps({"model_cfg": content}))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert activation(load_clip(**source, device="cpu")) == expected
        assert f"{expected}, as the open_clip_config.json beside it says" in caplog.text
    with pytest.raises(ValueError, match="quick_gelu=False contradicts that"):
        load_clip(**source, device="cpu", quick_gelu=False)
    for broken in ("{", "[]"):
        config.write_text(broken)
        with pytest.raises(ValueError, match=r"open_clip_config\.json"):
            load_clip(**source, device="cpu")


def test_activations_that_contradict_each_other_are_refused(
    monkeypatch, openai_model, mini, tmp_path
):
    import open_clip

    archive = save_openai_file("torchscript", openai_model, tmp_path)
    monkeypatch.setattr(open_clip, "create_model", pytest.fail)
    for source in ([archive], ["ViT-B-16", archive], ["ViT-B-16", "openai"]):
        with pytest.raises(ValueError, match=r"QuickGELU, as .*quick_gelu=False contradicts that"):
            load_clip(*source, quick_gelu=False)
    with pytest.raises(ValueError, match="GELU, as it was trained; quick_gelu=True"):
        load_clip("ViT-B-16", "laion2b_s34b_b88k", quick_gelu=True)
    with pytest.raises(ValueError, match="contradicts the name ViT-B-16-quickgelu"):
        load_clip("ViT-B/16-quickgelu", archive, quick_gelu=False)
    for other in ("mini", mini, openai_model):
        with pytest.raises(ValueError, match="quick_gelu goes with"):
            load_clip(other, quick_gelu=True)
    with pytest.raises(TypeError, match="quick_gelu must be True, False or None; got 'no'"):
        load_clip(archive, quick_gelu="no")


def test_what_the_caller_says_may_agree_with_the_weights(created, openai_model, tmp_path):
    archive = save_openai_file("torchscript", openai_model, tmp_path)
    for source in ([archive], ["ViT-B-16-quickgelu", archive], ["ViT-B-16", "openai"]):
        assert activation(load_clip(*source, device="cpu", quick_gelu=True)) == "QuickGELU"


def test_random_weights_take_the_activation_asked_for(created):
    for options, expected in (({}, "GELU"), ({"quick_gelu": True}, "QuickGELU")):
        assert activation(load_clip("ViT-B-16", device="cpu", **options)) == expected
    assert activation(load_clip("ViT-B-16-quickgelu", device="cpu")) == "QuickGELU"


def test_the_activation_of_a_tag_is_logged(created, caplog):
    with caplog.at_level(logging.INFO):
        load_clip("ViT-B-16", pretrained="openai", device="cpu")
    assert "ViT-B-16, openai: QuickGELU, as it was trained" in caplog.text


def test_open_clip_does_not_announce_random_weights_where_a_file_is_loaded(tmp_path):
    code = (
        "import logging, sys, torch, open_clip, vpl_plugin.clip as clip;"
        "logging.basicConfig(level=logging.INFO) if sys.argv[2] == 'info' else None;"
        "config = open_clip.get_model_config('ViT-S-32');"
        "torch.save(open_clip.CLIP(**config).state_dict(), sys.argv[1]);"
        "clip.load_clip('ViT-S-32', sys.argv[1], device='cpu');"
        "print(len(logging.getLogger().handlers))"
    )
    for level, handlers in (("none", "0"), ("info", "1")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "small.pt"), level],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "initialized randomly" not in done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "does not say its activation: QuickGELU" in line
        # Nor does it set up the caller's logging.
        assert done.stdout.strip() == handlers


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_weights_that_cannot_be_downloaded_name_the_remedy(offline):
    with pytest.raises(ConnectionError) as found:
        load_clip("ViT-B-32", pretrained="openai", device="cpu")
    message = str(found.value)
    assert message.startswith("ViT-B-32 with the weights 'openai' cannot be downloaded (")
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in message
    # A file that does not say its activation has this one's.
    assert "pass it as pretrained of ViT-B-32, or take the embedded model" in message
    assert "\n" not in message
    # This one's has to be said.
    with pytest.raises(ConnectionError, match=r"quick_gelu=False.*--no-quick-gelu\), or take"):
        load_clip("ViT-B-32", pretrained="laion2b_s34b_b79k", device="cpu")
    with pytest.raises(ConnectionError, match=r"^hf-hub:laion/none cannot be downloaded") as found:
        load_clip("hf-hub:laion/none", device="cpu")
    assert "\n" not in str(found.value)


def test_a_folder_of_open_clip(make_open_clip, pixels, tmp_path, caplog):
    config = {
        "embed_dim": 32,
        "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1},
    }
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json"):
        load_clip(f"local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    # Random weights, silently, is what open_clip makes of it.
    with pytest.raises(ValueError, match="could not be loaded"):
        load_clip(f"local-dir:{tmp_path}", device="cpu")
    source = make_open_clip()
    torch.save(source.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    expected = load_clip(source).dense_features(pixels)
    for name in (f"local-dir:{tmp_path}", str(tmp_path), tmp_path):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            features = load_clip(name, device="cpu").dense_features(pixels)
        assert f"local-dir:{tmp_path}: GELU, as its open_clip_config.json says" in caplog.text
        torch.testing.assert_close(features, expected)
        with pytest.raises(ValueError, match=r"quick_gelu=True.* contradicts that"):
            load_clip(name, device="cpu", quick_gelu=True)


def test_a_clip_model_in_another_dtype(make_open_clip, pixels):
    model = load_clip(make_open_clip())
    expected = model.dense_features(pixels)
    half = load_clip(model, dtype=torch.bfloat16)
    assert (half.dtype, half.name, half.device) == (torch.bfloat16, "CLIP", model.device)
    torch.testing.assert_close(half.dense_features(pixels).float(), expected, atol=0.05, rtol=0)
    # The one passed is as it was.
    assert model.dtype == torch.float32
    assert torch.equal(model.dense_features(pixels), expected)
    assert load_clip(half) is half
    assert load_clip(half, dtype=torch.bfloat16) is half
    assert load_clip(half, dtype=torch.float32).dtype == torch.float32


def test_a_clip_model_with_another_tokenizer(make_open_clip, pixels):
    module = make_open_clip()
    model = load_clip(module)

    def tokenizer(texts):
        return torch.ones(len(texts), 77, dtype=torch.long)

    other = load_clip(model, tokenizer=tokenizer)
    assert torch.equal(other.encode_text(["a"]), other.encode_text(["b"]))
    assert not torch.equal(model.encode_text(["a"]), model.encode_text(["b"]))
    assert other.module.visual.proj.data_ptr() == module.visual.proj.data_ptr()
    # It stays with the model when only the dtype is changed after it.
    again = load_clip(other, dtype=torch.float16)
    assert torch.equal(again.encode_text(["a"]), again.encode_text(["b"]))
