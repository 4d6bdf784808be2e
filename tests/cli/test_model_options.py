"""--quick-gelu: wired through the commands, and noted so that two activations never mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vpl_plugin.cli import clip_cpal, clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.clip import load_clip
from vpl_plugin.prototypes import Prototypes


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare state dict, which does not say its activation."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=32,
            vision_cfg=open_clip.CLIPVisionCfg(
                image_size=64, patch_size=16, width=64, layers=2, head_width=64
            ),
            text_cfg=open_clip.CLIPTextCfg(width=64, heads=1, layers=1),
        )
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("command", [clip_es.main, clip_cpal.main])
def test_the_stages_note_the_activation_and_do_not_mix_two(
    command, weights: Path, voc_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*options: str) -> int:
        data = ["--dataset", "voc", "--root", str(voc_tiny), "--labels", "masks"]
        split = ["--split", str(voc_tiny / "train.txt"), "--masks", "SegmentationClass"]
        work = ["--output", str(tmp_path), "--device", "cpu", "--workers", "1"]
        return command(["seeds", *data, *split, *work, "--model", str(weights), *options])

    assert call("--no-quick-gelu") == 0
    noted = json.loads((tmp_path / "seeds/run.json").read_text())["encoder"]
    assert noted["activation"] == "GELU"
    assert call("--no-quick-gelu") == 0
    capsys.readouterr()
    for other in ((), ("--quick-gelu",)):
        assert call(*other) == 2
        assert "'activation': 'QuickGELU'" in capsys.readouterr().err


def test_vpl_cams_notes_the_activation_and_does_not_mix_two(
    weights: Path, voc_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("photo,labels\ncat.jpg,cat\n")

    def call(*options: str) -> int:
        photos = [str(voc_tiny / "JPEGImages"), "--labels", str(tmp_path / "labels.csv")]
        fixed = ["--classes", "cat,dog", "--device", "cpu", "--no-panels"]
        output = ["--output", str(tmp_path / "out"), "--model", str(weights)]
        return main(["cams", *photos, *fixed, *output, *options])

    assert call("--no-quick-gelu") == 0
    noted = Prototypes.load(tmp_path / "out/prototypes.safetensors").about
    assert noted["seeds"]["encoder"]["activation"] == "GELU"
    assert call("--quick-gelu") == 2
    assert "'activation': 'QuickGELU'" in capsys.readouterr().err


def test_the_encoder_of_a_decoder_and_of_cached_tokens_is_known_by_its_activation(
    weights: Path,
) -> None:
    quick, plain = (
        load_clip(weights, device="cpu", quick_gelu=value).fingerprint() for value in (True, False)
    )
    assert (quick.pop("activation"), plain.pop("activation")) == ("QuickGELU", "GELU")
    assert quick == plain
