"""Models that cannot be had: one line and exit code 2 in every command that takes --model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from vpl_plugin.cli import clip_cpal, clip_es
from vpl_plugin.cli.main import main

Call = Callable[[list[str]], int]


@pytest.fixture
def commands(
    voc_tiny: Path,
    prototypes_file: Path,
    decoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, tuple[Call, list[str]]]:
    """Each command with all it takes but a model; nothing is downloaded."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    root, output = str(voc_tiny), ["--output", str(tmp_path / "out"), "--device", "cpu"]
    train, val = str(voc_tiny / "train.txt"), str(voc_tiny / "val.txt")
    voc = ["--dataset", "voc", "--root", root, "--labels", "masks"]
    (tmp_path / "labels.csv").write_text(
        "photo,labels\n" + "".join(f"{p.name},cat\n" for p in voc_tiny.glob("JPEGImages/*.jpg"))
    )
    photos = str(voc_tiny / "JPEGImages")
    split = [*voc, "--masks", "SegmentationClass", "--split", train]
    return {
        "cams": (
            main,
            ["cams", photos, "--classes", "voc", "--labels", str(tmp_path / "labels.csv"), *output],
        ),
        "ablate": (main, ["ablate", root, "--train", train, "--val", val, *output]),
        "train": (
            main,
            [
                *("train", *voc, "--train", train, "--masks", str(voc_tiny / "SegmentationClass")),
                *("--prototypes", str(prototypes_file), *output),
            ],
        ),
        "segment": (main, ["segment", photos, "--checkpoint", str(decoder_file), *output]),
        "table3": (main, ["table3", *voc, "--train", train, "--val", val, "--no-tsne", *output]),
        "clip-es": (clip_es.main, ["seeds", *split, *output]),
        "clip-cpal": (clip_cpal.main, ["seeds", *split, *output]),
    }


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (["--model", "RN50"], "the vision tower of RN50 is a ResNet; only plain vision"),
        (["--model", "ViT-B-16-SigLIP"], "is the timm model"),
        (["--model", "ViT-B-32", "--pretrained", "openai"], "cannot be downloaded"),
        (["--model", "openai/clip-vit-base-patch16"], "cannot be had from"),
        (["--model", "ViT-B-32", "--pretrained", "{empty}"], "is empty"),
        (
            ["--model", "ViT-B-32", "--pretrained", "openai", "--no-quick-gelu"],
            "QuickGELU, as it was trained; quick_gelu=False contradicts that",
        ),
        (["--quick-gelu"], "quick_gelu goes with the name of a model or with a file"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_one_line_and_exit_code_2(
    commands: dict[str, tuple[Call, list[str]]],
    model: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "weights.pt"
    empty.touch()
    options = [word.format(empty=empty) for word in model]
    for name, (call, words) in commands.items():
        assert call([*words, *options]) == 2, name
        error = capsys.readouterr().err
        (line,) = [line for line in error.splitlines() if says in line]
        assert line.startswith("vpl"), name
        assert "Traceback" not in error
        # Nor do libraries say the same in their own words.
        assert error.count("ailed to download") == 0, sys.stderr.write(error)
