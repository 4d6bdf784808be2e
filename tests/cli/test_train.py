"""vpl train: what it writes, resume, validation, bad input."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vpl_plugin.cli.main import main
from vpl_plugin.clip import VOC
from vpl_plugin.localization import read_mask, write_mask
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import read_checkpoint_metadata

Run = Callable[..., int]


@pytest.fixture
def words(voc_tiny: Path, prototypes_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a command: options that are given stand in for those of a short training."""

    def put_together(*options: str, output: str = "out", **changed: str) -> list[str]:
        given = {
            "--dataset": "voc",
            "--root": str(voc_tiny),
            "--train": "train.txt",
            "--labels": "masks",
            "--masks": str(voc_tiny / "SegmentationClass"),
            "--prototypes": str(prototypes_file),
            "--output": str(tmp_path / output),
            "--device": "cpu",
            "--width": "32",
            "--layers": "1",
            "--heads": "2",
            "--crop": "64",
            "--iterations": "4",
            "--batch-size": "2",
            **{f"--{name}": value for name, value in changed.items()},
        }
        if given["--dataset"] == "folder":
            # Its labels are those of the split's CSV.
            del given["--labels"]
        return ["train", *(word for pair in given.items() for word in pair), *options]

    return put_together


@pytest.fixture
def run(words: Callable[..., list[str]]) -> Run:
    return lambda *options, **changed: main(words(*options, **changed))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_options_become_settings_and_the_run_ends_with_a_decoder(run: Run, tmp_path: Path) -> None:
    options = ("--val", "val.txt", "--validate-every", "2", "--log-every", "2")
    changed = ("--lambda-rsc", "0.5", "--scales", "0.8", "1.2", "--ce", "plain")
    contrast = ("--no-centred", "--detach-masks", "--least-area", "0.02")
    assert run(*options, *changed, *contrast) == 0
    about = read_checkpoint_metadata(tmp_path / "out/decoder.safetensors")
    assert about["classes"] == list(VOC.labels)
    assert about["decoder"]["width"] == 32
    assert about["decoder"]["temperature"] == 0.02
    settings = about["made_by"]["settings"]
    assert (settings["lambda_rsc"], settings["scales"]) == (0.5, [0.8, 1.2])
    assert settings["ce"] == "plain"
    assert (settings["centred"], settings["detach_masks"]) == (False, True)
    assert settings["least_area"] == 0.02
    assert settings["weight_decay"] == 1e-4
    assert [row["iteration"] for row in rows(tmp_path / "out/metrics.csv")] == ["2", "4"]
    validation = rows(tmp_path / "out/validation.csv")
    assert [row["iteration"] for row in validation] == ["2", "4"]
    assert all(0 <= float(row["miou"]) <= 1 for row in validation)


def test_run_again_nothing_is_done_and_other_settings_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--cache", str(tmp_path / "cache")) == 0
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2 * 4
    before = (tmp_path / "out/state.pt").stat().st_mtime_ns
    assert run("--cache", str(tmp_path / "cache")) == 0
    assert (tmp_path / "out/state.pt").stat().st_mtime_ns == before
    assert run("--cache", str(tmp_path / "cache"), "--learning-rate", "0.5") == 2
    assert "other settings" in capsys.readouterr().err


def test_two_ranks_validate_as_one(
    run: Run, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = ("--val", "val.txt", "--validate-every", "2")
    assert run(*options, output="one") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "vpl_plugin.cli.main", *words(*options, output="two")]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **meeting, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    one, two = (rows(tmp_path / name / "validation.csv") for name in ("one", "two"))
    assert [row["iteration"] for row in two] == ["2", "4"]
    for alone, together in zip(one, two, strict=True):
        assert float(together["miou"]) == pytest.approx(float(alone["miou"]), abs=0.01)


def test_a_folder_of_photos_with_a_csv(
    run: Run, voc_tiny: Path, tmp_path: Path, prototypes_file: Path
) -> None:
    (tmp_path / "labels.csv").write_text("photo,labels\ncat.jpg,cat\nmissing.jpg,cat\n")
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copy(voc_tiny / "SegmentationClass/cat.png", masks / "cat.jpg.png")
    changed = {
        "dataset": "folder",
        "root": str(voc_tiny / "JPEGImages"),
        "train": str(tmp_path / "labels.csv"),
        "masks": str(masks),
        "classes": "voc",
    }
    # The photo that is missing is left out, and told.
    assert run(**changed) == 1
    assert (tmp_path / "out/decoder.safetensors").exists()


def _no_mask(masks: Path) -> None:
    (masks / "cat.png").unlink()


def _class_beyond(masks: Path) -> None:
    mask = read_mask(masks / "cat.png")
    mask[:5] = 21
    write_mask(masks / "cat.png", mask)


def _other_size(masks: Path) -> None:
    write_mask(masks / "cat.png", np.zeros((3, 4), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_mask, "1 photos without a pseudo-mask: cat"),
        (_class_beyond, "label 21"),
        (_other_size, "3 x 4"),
    ],
)
def test_pseudo_masks_that_do_not_fit_are_told_before_anything_is_written(
    run: Run,
    voc_tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    masks = Path(shutil.copytree(voc_tiny / "SegmentationClass", tmp_path / "masks"))
    names = (voc_tiny / "train.txt").read_text().split()
    assert "cat" in names
    damage(masks)
    assert run(masks=str(masks)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prototypes_of_another_model_or_of_other_classes(
    run: Run, tmp_path: Path, prototypes_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Prototypes.load(prototypes_file)
    other = tmp_path / "other.safetensors"
    for wrong, classes, message in (
        (held.rows[:, :100], held.class_names, "D = 100"),
        (held.rows, ("zebra",), "other classes than"),
        (held.rows[:7], held.class_names[:7], "other classes than"),
    ):
        Prototypes(wrong, classes, held.temperature).save(other)
        assert run(prototypes=str(other)) == 2
        assert message in capsys.readouterr().err
    assert run(prototypes=str(tmp_path / "none.safetensors")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "50"), "crop must be a multiple"),
        (("--width", "30", "--heads", "4"), "multiple of heads"),
        (("--activation", "tanh"), "activation"),
        (("--ce", "focal"), "unknown ce 'focal'"),
        (("--train", "nowhere.txt"), "nowhere.txt"),
        (("--val", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_bad_settings_exit_with_2(
    run: Run, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_not_finite_exits_with_1(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--learning-rate", "1e30", "--warmup", "0", "--clip-norm", "1e30") == 1
    assert "lower learning_rate" in capsys.readouterr().err


def test_masks_without_a_class_are_refused_before_any_work(
    run: Run, voc_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = Path(shutil.copytree(voc_tiny / "SegmentationClass", tmp_path / "masks"))
    for path in masks.iterdir():
        write_mask(path, np.where(read_mask(path) > 0, np.uint8(255), np.uint8(0)))
    assert run(masks=str(masks)) == 2
    assert "0 (in 4) and 255 (in 4); expected are 0" in capsys.readouterr().err
    root = Path(shutil.copytree(voc_tiny, tmp_path / "VOC2012"))
    with (tmp_path / "labels.csv").open("w") as table:
        table.write("photo,labels\ncat.jpg,cat\n")
    folder = {"dataset": "folder", "root": str(root / "JPEGImages"), "train": table.name}
    pseudo = tmp_path / "pseudo"
    pseudo.mkdir()
    shutil.copy(root / "SegmentationClass/cat.png", pseudo / "cat.jpg.png")
    options = ("--classes", "voc", "--val", table.name, "--val-masks", str(masks))
    assert run(*options, masks=str(pseudo), **folder) == 2
    assert "0 (in 1) and 255 (in 1); expected are 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
