"""Own prompts, templates and background names: on the command line, in a file, with prototypes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from vpl_plugin.cli import clip_cpal, clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.clip import (
    ENSEMBLE,
    VOC,
    ClassNames,
    ClipModel,
    class_prototypes,
    text_prototypes,
)
from vpl_plugin.prototypes import Prototypes

PETS = ClassNames("pets", ("cat", "dog"), ("cat", "dog"), ("grass", "floor"))


def parsed(*words: object, names: ClassNames = PETS) -> ClassNames:
    parser = argparse.ArgumentParser()
    add_text_arguments(parser)
    return own_texts(names, parser.parse_args([str(word) for word in words]))


def test_without_options_the_data_sets_texts_stay() -> None:
    assert parsed(names=VOC) == VOC
    assert changed_texts(VOC, VOC) is None


def test_texts_on_the_command_line() -> None:
    names = parsed(
        *("--prompt", "dog=dog, hound", "--prompt", "cat=cat", "--prompt", "cat=kitten = young"),
        *("--background", "sofa, bed ,", "--template", "a {}", "--template", "ensemble"),
    )
    assert names == ClassNames(
        "pets",
        ("cat", "dog"),
        (("cat", "kitten = young"), "dog, hound"),
        ("sofa", "bed"),
        ("a {}", *ENSEMBLE),
    )
    assert changed_texts(names, PETS) == {
        "prompts": {"cat": ["cat", "kitten = young"], "dog": "dog, hound"},
        "background": ["sofa", "bed"],
        "templates": ["a {}", *ENSEMBLE],
    }


def test_a_file_and_options_that_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "texts.json"
    content = {"prompts": {"dog": ["dog", "puppy"]}, "background": ["sand"], "templates": ["{}"]}
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    names = parsed("--texts", file)
    assert names.prompts == ("cat", ("dog", "puppy"))
    assert (names.background, names.templates) == (("sand",), ("{}",))
    names = parsed("--texts", file, "--prompt", "dog=hound", "--template", "single")
    assert names.prompts == ("cat", "hound")
    assert (names.background, names.templates) == (("sand",), ("a photo of a {}.",))
    assert changed_texts(parsed("--texts", file), PETS) == content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "dgo=x"], r"no class 'dgo': did you mean dog\?"),
        (["--prompt", "dog"], "--prompt must be LABEL=TEXT; got 'dog'"),
        (["--prompt", "dog= "], "--prompt must be LABEL=TEXT"),
        (["--background", " , "], "--background must hold at least one name"),
        (["--template", "a photo"], r"template 'a photo' has no \{\}"),
        (["--texts", "gone.json"], r"there is no file gone\.json"),
    ],
)
def test_bad_options(words: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        parsed(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "must hold an object with any of prompts, background, templates; got list"),
        ('{"backgrounds": ["sea"]}', r"any of prompts.*got \['backgrounds'\]"),
        ('{"prompts": {"dog": 3}}', "prompts must hold a text, or a list"),
        ('{"prompts": ["dog"]}', "prompts must hold a text, or a list"),
        ('{"prompts": {"dog": []}}', "prompts must hold a text, or a list"),
        ('{"prompts": {"dog": " "}}', "must be text that is not blank"),
        ('{"prompts": {"bird": "bird"}}', "pets has no class 'bird'"),
        ('{"background": "sea"}', "background must be a list of texts; got 'sea'"),
        ('{"templates": []}', "templates must be a list of texts"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "texts.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        parsed("--texts", tmp_path / "texts.json")


def test_prototypes_are_of_the_texts_asked_for(mini: ClipModel) -> None:
    names = dataclasses.replace(
        PETS, prompts=(("cat", "kitten"), "dog"), templates=("a {}", "the {}")
    )
    expected = text_prototypes(
        mini, [("cat", "kitten"), "dog", "grass", "floor"], ["a {}", "the {}"]
    )
    assert torch.equal(class_prototypes(mini, names).rows, expected)
    assert not torch.allclose(class_prototypes(mini, PETS).rows, expected, atol=1e-3)


OWN = ["--prompt", "cat=tabby cat", "--background", "carpet,table", "--template", "a {}"]


def test_vpl_cams_uses_them_saves_them_and_takes_them_back(
    voc_tiny: Path, mini: ClipModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("photo,labels\ncat.jpg,cat\n")

    def call(output: str, *options: str) -> int:
        fixed = [
            "--classes",
            "cat,dog",
            "--labels",
            str(tmp_path / "labels.csv"),
            "--device",
            "cpu",
        ]
        folder = ["cams", str(voc_tiny / "JPEGImages"), "--output", str(tmp_path / output)]
        return main([*folder, *fixed, "--no-panels", *options])

    assert call("own", *OWN) == 0
    held = Prototypes.load(tmp_path / "own" / "prototypes.safetensors")
    rows, about = held.rows, held.about
    assert rows.shape == (4, mini.embed_dim)
    texts = {
        "prompts": {"cat": "tabby cat", "dog": "dog"},
        "background": ["carpet", "table"],
        "templates": ["a {}"],
    }
    assert {key: about[key] for key in texts} == texts
    # Other texts are other settings; the same ones resume.
    assert call("own") == 2
    assert "texts was {'" in capsys.readouterr().err
    assert call("own", *OWN) == 0
    # The prototypes of that run, with the texts they were learned from.
    learned = str(tmp_path / "own" / "prototypes.safetensors")
    capsys.readouterr()
    assert call("again", "--prototypes", learned) == 2
    assert f"with other background names: pass --texts {learned}" in capsys.readouterr().err
    assert call("again", "--prototypes", learned, "--texts", learned) == 0


@pytest.fixture
def more_own(tmp_path: Path) -> list[str]:
    """Options and a file; the options win."""
    file = tmp_path / "texts.json"
    content = {"prompts": {"cat": "lion", "dog": ["dog", "puppy"]}, "background": ["sea"]}
    file.write_text(json.dumps(content))
    return ["--texts", str(file), *OWN]


@pytest.mark.parametrize(
    ("command", "more", "last"),
    [
        (clip_es.main, (), "prototypes"),
        (clip_cpal.main, ("bank", "adapt"), "vision/adapted"),
    ],
    ids=["vpl-clip-es", "vpl-clip-cpal"],
)
def test_the_stages_use_them_and_hand_them_on(
    command: Callable[[list[str]], int],
    more: Sequence[str],
    last: str,
    more_own: list[str],
    voc_tiny: Path,
    mini: ClipModel,
    tmp_path: Path,
) -> None:
    def call(stage: str, *options: str) -> int:
        data = ["--dataset", "voc", "--root", str(voc_tiny), "--labels", "masks"]
        split = ["--split", str(voc_tiny / "train.txt"), "--masks", "SegmentationClass"]
        work = ["--output", str(tmp_path / "out"), "--device", "cpu", "--workers", "1"]
        return command([stage, *data, *split, *work, *options])

    for stage in ("seeds", "learn", *more):
        assert call(stage, *more_own) == 0
    names = parsed(*more_own, names=VOC)
    held = Prototypes.load(tmp_path / "out/seeds/text_prototypes.safetensors")
    rows, about = held.rows, held.about
    torch.testing.assert_close(rows, class_prototypes(mini, names).rows)
    learned = Prototypes.load(tmp_path / "out" / last / "prototypes.safetensors").about
    for made in (about, learned):
        assert made["prompts"]["cat"] == "tabby cat"
        assert made["prompts"]["dog"] == ["dog", "puppy"]
        assert made["background"] == ["carpet", "table"]
        assert made["templates"] == ["a {}"]
    # Other texts are other settings.
    assert call("seeds") == 2
    assert call("seeds", *OWN) == 2
    run = json.loads((tmp_path / "out/seeds/run.json").read_text())
    assert run["texts"]["prompts"] == {"cat": "tabby cat", "dog": ["dog", "puppy"]}


def test_vpl_table3_uses_them_and_does_not_mix_them(
    more_own: list[str],
    voc_tiny: Path,
    mini: ClipModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"

    def call(*options: str) -> int:
        data = ["--dataset", "voc", "--root", str(voc_tiny), "--labels", "masks"]
        split = ["--train", "train.txt", "--val", "val.txt", "--no-tsne", "--panels", "0"]
        work = ["--output", str(output), "--device", "cpu", "--workers", "1"]
        decoder = ["--width", "32", "--layers", "1", "--heads", "2", "--crop", "64"]
        training = ["--iterations", "2", "--batch-size", "2"]
        return main(["table3", *data, *split, *work, *decoder, *training, *options])

    assert call(*more_own) == 0
    names = parsed(*more_own, names=VOC)
    rows = Prototypes.load(output / "train/seeds/text_prototypes.safetensors").rows
    torch.testing.assert_close(rows, class_prototypes(mini, names).rows)
    of_val = json.loads((output / "val/text/cams/run.json").read_text())
    assert of_val["texts"]["prompts"] == {"cat": "tabby cat", "dog": ["dog", "puppy"]}
    held = Prototypes.load(output / "train/prototypes/prototypes.safetensors")
    learned, about = held.rows, held.about
    assert len(learned) == len(VOC.labels) + 2
    assert about["background"] == ["carpet", "table"]
    assert about["templates"] == ["a {}"]
    capsys.readouterr()
    assert call() == 2
    assert "texts was {" in capsys.readouterr().err
    assert call(*more_own) == 0
