"""--keep-tokens in the commands: encoded once, broken or old files, a killed run, the estimate."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es.stage_files import read_cams, read_seeds
from vpl_plugin.cli import clip_cpal, clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.clip import ClipModel

NAMES = ["astronaut", "cat", "coffee", "motorbike", "admiral", "dining_room"]
COMMANDS = {"clip_es": clip_es.main, "clip_cpal": clip_cpal.main}


def call(stage: str, root: Path, output: Path, *options: str, command: str = "clip_es") -> int:
    fixed = ("--dataset", "voc", "--split", "train", "--device", "cpu", "--workers", "1")
    return COMMANDS[command](
        [stage, "--root", str(root), "--output", str(output), *fixed, *options]
    )


@pytest.fixture(scope="module")
def kept(voc: Path) -> Path:
    """The files of an undisturbed run that keeps tokens."""
    output = voc.parent / "kept"
    assert call("all", voc, output, "--keep-tokens", "--no-crf") == 0
    return output


@pytest.fixture(scope="module")
def plain(voc: Path) -> Path:
    """The files of one that does not."""
    output = voc.parent / "plain"
    assert call("all", voc, output, "--no-crf") == 0
    return output


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the photos of each batch that is encoded."""
    genuine, sizes = ClipModel.tokens_before_last_block, []

    def counted(self: ClipModel, pixels: torch.Tensor, **options: object) -> object:
        sizes.append(len(pixels))
        return genuine(self, pixels, **options)

    monkeypatch.setattr(ClipModel, "tokens_before_last_block", counted)
    return sizes


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_seeds_prototypes_and_cams_are_those_of_encoding_again(plain: Path, kept: Path) -> None:
    assert {*files(kept / "tokens")} == {"run.json", *(f"{name}.npz" for name in NAMES)}
    assert not (plain / "tokens").exists()
    for name in NAMES:
        ours, theirs = (read_seeds(folder / f"seeds/{name}.npz") for folder in (kept, plain))
        np.testing.assert_array_equal(ours.features, theirs.features)
        assert (ours.seeds == theirs.seeds).mean() > 0.99
        cams, expected = (read_cams(folder / f"vision/cams/{name}.npz") for folder in (kept, plain))
        torch.testing.assert_close(cams.raw, expected.raw, rtol=0, atol=5e-4)
        torch.testing.assert_close(cams.refined, expected.refined, rtol=0, atol=5e-4)
    ours, theirs = (
        json.loads((folder / "vision/evaluation.json").read_text()) for folder in (kept, plain)
    )
    assert ours["refined"]["miou"] == pytest.approx(theirs["refined"]["miou"], abs=5e-4)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_photo_is_encoded_once(
    command: str, voc: Path, tmp_path: Path, encoded: list[int]
) -> None:
    options = ("--keep-tokens", "--no-crf")
    assert call("all", voc, tmp_path, *options, command=command) == 0
    assert sum(encoded) == 6
    # Nor for other prototypes: their files lie beside.
    assert call("all", voc, tmp_path, *options, "--prototypes", "text", command=command) == 0
    assert sum(encoded) == 6


def test_panels_take_the_kept_tokens(voc: Path, tmp_path: Path, encoded: list[int]) -> None:
    (tmp_path / "labels.csv").write_text("photo,labels\ncat.jpg,cat\nmotorbike.jpg,motorbike\n")
    fixed = ["--classes", "voc", "--labels", str(tmp_path / "labels.csv"), "--device", "cpu"]

    def cams(output: Path, *options: str) -> int:
        return main(["cams", str(voc / "JPEGImages"), "--output", str(output), *fixed, *options])

    assert cams(tmp_path / "out", "--keep-tokens") == 0
    assert sum(encoded) == 2
    assert cams(tmp_path / "plain") == 0
    assert sum(encoded) == 2 + 6
    for name in ("cams/cat.jpg.npz", "text/cams/cat.jpg.npz"):
        ours, theirs = (read_cams(tmp_path / folder / name) for folder in ("out", "plain"))
        torch.testing.assert_close(ours.refined, theirs.refined, rtol=0, atol=5e-4)
    assert (tmp_path / "out/panels/cat.jpg.png").exists()


def damage(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "cut short":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "a byte changed":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif how == "another stage's":
        shutil.copy(file.parent.parent / "seeds" / file.name, file)
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize("how", ["gone", "cut short", "a byte changed", "another stage's", "empty"])
@pytest.mark.parametrize("batch_size", ["1", "8"])
def test_a_missing_or_broken_file_is_made_again_and_the_cams_are_the_same(
    how: str, batch_size: str, voc: Path, tmp_path: Path, encoded: list[int]
) -> None:
    options = ("--keep-tokens", "--batch-size", batch_size)
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert call("seeds", voc, whole, *options) == 0
    shutil.copytree(whole, output)
    assert call("cams", voc, whole, *options, "--prototypes", "text") == 0
    damage(output / "tokens/cat.npz", how)
    before = sum(encoded)
    assert call("cams", voc, output, *options, "--prototypes", "text") == 0
    assert sum(encoded) - before == 1
    assert files(output) == files(whole)


def test_the_tokens_of_another_photo_of_that_name_are_not_taken(voc: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(voc, tmp_path / "VOC2012"))
    options = ("--keep-tokens", "--prototypes", "text")
    assert call("cams", root, tmp_path / "out", *options) == 0
    photo = root / "JPEGImages/cat.jpg"
    with Image.open(photo) as opened:
        opened.rotate(180).save(photo)
    assert call("cams", root, tmp_path / "out", *options) == 0
    assert call("cams", root, tmp_path / "fresh", *options) == 0
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.parametrize("at", [3, 8, 15])
def test_killed_and_resumed_the_files_are_the_same(
    at: int, voc: Path, kept: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    fixed = ["--dataset", "voc", "--split", "train", "--device", "cpu", "--workers", "1"]
    arguments = ["all", "--root", str(voc), "--output", str(output), *fixed]
    arguments += ["--keep-tokens", "--no-crf"]
    # Tokens and seeds are written in turn: 12 files, then the CAMs.
    code = f"""
import os, signal
import numpy as np
from vpl_plugin.cli.clip_es import main
genuine, done = np.savez, []
def savez(file, **arrays):
    genuine(file, **arrays)
    done.append(file)
    if len(done) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
np.savez = savez
main({arguments!r})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env=environment
    )
    assert killed.returncode == -signal.SIGKILL
    assert call("all", voc, output, "--keep-tokens", "--no-crf") == 0
    assert files(output) == files(kept)


def test_the_estimate_counts_their_disk_once(
    voc: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {}
    for options in ((), ("--keep-tokens",)):
        assert call("all", voc, tmp_path / "none", "--dry-run", *options) == 0
        sizes[options] = printed_sizes(capsys.readouterr().out)
    assert not (tmp_path / "none").exists()
    on_disk = sum(file.stat().st_size for file in (kept / "tokens").glob("*.npz"))
    grown = sizes["--keep-tokens",]["seeds"] - sizes[()]["seeds"]
    # The headers of the small test photos' files weigh some percent; of whole photos 0.1 %.
    assert 0.85 * on_disk < grown <= on_disk
    assert sizes["--keep-tokens",]["cams"] == sizes[()]["cams"]
    # Where they are there nothing is added, and where one is missing its own.
    shutil.copytree(kept, tmp_path / "some")
    shutil.rmtree(tmp_path / "some/vision")
    assert call("cams", voc, tmp_path / "some", "--dry-run", "--keep-tokens") == 0
    assert printed_sizes(capsys.readouterr().out)["cams"] == sizes[()]["cams"]
    (tmp_path / "some/tokens/cat.npz").unlink()
    assert call("cams", voc, tmp_path / "some", "--dry-run", "--keep-tokens") == 0
    assert printed_sizes(capsys.readouterr().out)["cams"] == pytest.approx(
        sizes[()]["cams"] + grown / 6, rel=0.01
    )


def printed_sizes(text: str) -> dict[str, float]:
    units = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    found = re.findall(r"(\w+): \d+ photos, about ([\d.]+) (\w+)", text)
    return {stage: float(number) * units[unit] for stage, number, unit in found}
