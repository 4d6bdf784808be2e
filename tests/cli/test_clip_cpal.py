"""vpl-clip-cpal on small photographs in VOC's layout: results, determinism, resume, bad input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vpl_plugin.adapters.clip_cpal import read_context
from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.clip_cpal.stages import adapt as adapt_stage
from vpl_plugin.adapters.clip_cpal.stages import bank as bank_stage
from vpl_plugin.adapters.clip_cpal.stages.bank import StoredInstances
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.clip_es.stages import cams as cams_stage
from vpl_plugin.adapters.datasets import PhotoSet
from vpl_plugin.cli import clip_cpal, clip_es, pipeline
from vpl_plugin.cli.clip_cpal import main
from vpl_plugin.clip import COCO, VOC
from vpl_plugin.localization import read_mask
from vpl_plugin.prototypes import Prototypes

NAMES = ["astronaut", "cat", "coffee", "motorbike", "admiral", "dining_room"]
OWN = ("bank", "adapt", "cams")


def call(stage: str, root: Path, output: Path, *options: str) -> int:
    fixed = ("--dataset", "voc", "--split", "train", "--labels", "masks", "--device", "cpu")
    return main([stage, "--root", str(root), "--output", str(output), *fixed, *options])


@pytest.fixture(scope="module")
def whole(voc: Path) -> Path:
    """The files of an undisturbed run."""
    output = voc.parent / "whole"
    assert call("all", voc, output, "--workers", "1") == 0
    return output


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_all_stages(voc: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cams = read_cams(whole / "vision/cams/cat.npz")
    assert cams.raw.shape == cams.refined.shape == (1, 4, 6)
    assert 0 <= float(cams.raw.min()) < float(cams.raw.max()) <= 1
    context = read_context(whole / "vision/adapted/context.safetensors")
    assert context.prototypes.shape == (20, 8, 256)
    # One instance for each class of each of the six photos.
    instances = sum(
        len(bank_stage.read_instances(whole / f"vision/bank/{name}.npz").classes) for name in NAMES
    )
    assert int(context.counts.sum()) == instances
    start = Prototypes.load(whole / "prototypes/prototypes.safetensors").rows
    held = Prototypes.load(whole / "vision/adapted/prototypes.safetensors")
    trained, about = held.rows, held.about
    torch.testing.assert_close(trained.norm(dim=1), torch.ones(45))
    assert not torch.allclose(trained, start, atol=1e-3)
    assert about["kind"] == "vision"
    assert held.temperature == 0.03
    assert about["consistency_loss"][-1] < about["consistency_loss"][0]
    assert read_mask(whole / "vision/masks/cat.png").shape == cams.size
    figures = json.loads((whole / "vision/evaluation.json").read_text())
    assert figures["photos"] == 6
    assert 0.2 < figures["refined"]["miou"] < 1
    assert 0.2 < figures["pseudo_masks"]["labels"] < 1


def test_seeds_and_prototypes_are_those_of_clip_es(voc: Path, whole: Path, tmp_path: Path) -> None:
    fixed = ("--dataset", "voc", "--split", "train", "--labels", "masks", "--device", "cpu")
    for stage in ("seeds", "learn"):
        options = ("--root", str(voc), "--output", str(tmp_path), *fixed)
        assert clip_es.main([stage, *options]) == 0
    for folder in ("seeds", "prototypes"):
        assert files(tmp_path / folder) == files(whole / folder)


def test_a_second_run_gives_identical_files(voc: Path, whole: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.rmtree(output / "vision")
    for stage in (*OWN, "evaluate"):
        assert call(stage, voc, output, "--workers", "1") == 0
    again = files(output / "vision")
    assert "adapted/prototypes.safetensors" in again
    assert again == {
        name: held for name, held in files(whole / "vision").items() if name in again
    } | {name: again[name] for name in ("evaluation.json", "photo_counts.npz")}


def test_two_ranks_equal_one(
    voc: Path, whole: Path, two_ranks: Callable[..., None], tmp_path: Path
) -> None:
    # What the ranks sum up in "learn" is another test's.
    for folder in ("seeds", "prototypes"):
        shutil.copytree(whole / folder, tmp_path / folder)
    two_ranks(
        *("vpl_plugin.cli.clip_cpal", "all", "--root", str(voc), "--output", str(tmp_path)),
        *("--dataset", "voc", "--split", "train", "--labels", "masks", "--device", "cpu"),
        *("--workers", "1"),
    )
    assert files(tmp_path) == files(whole)


def test_all_stages_on_coco(voc: Path, tmp_path: Path) -> None:
    root, output = tmp_path / "coco", tmp_path / "out"
    shutil.copytree(voc / "JPEGImages", root / "train2014")
    cat, person = COCO.indices(["cat", "person"])
    (root / "list.txt").write_text(f"cat {cat}\nastronaut {person}\n")
    arguments = ("--dataset", "coco", "--root", str(root), "--split", "list.txt", "--device", "cpu")
    assert main(["all", *arguments, "--output", str(output), "--workers", "1"]) == 0
    context = read_context(output / "vision/adapted/context.safetensors")
    assert context.prototypes.shape == (80, 8, 256)
    assert context.counts.nonzero().flatten().tolist() == sorted((cat, person))
    assert set(np.unique(read_mask(output / "vision/labels/cat.png"))) <= {0, cat + 1}


def test_neither_training_nor_the_map_leaves_clip_es(
    voc: Path, whole: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.rmtree(output / "vision")
    options = ("--epochs", "0", "--blend", "0")
    for stage in OWN:
        assert call(stage, voc, output, *options) == 0
    ours = read_cams(output / "vision/cams/cat.npz")
    shutil.rmtree(output / "vision")
    fixed = ("--dataset", "voc", "--split", "train", "--labels", "masks", "--device", "cpu")
    assert clip_es.main(["cams", "--root", str(voc), "--output", str(output), *fixed]) == 0
    theirs = read_cams(output / "vision/cams/cat.npz")
    torch.testing.assert_close(ours.raw, theirs.raw, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.refined, theirs.refined, rtol=0, atol=1e-3)


def test_text_prototypes_and_the_context_of_another_run(
    voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    for stage in (*OWN, "evaluate"):
        assert call(stage, voc, output, "--prototypes", "text") == 0
    about = Prototypes.load(output / "text/adapted/prototypes.safetensors").about
    assert about["kind"] == "text"
    before = files(whole / "vision/cams")
    other = tmp_path / "other"
    shutil.copytree(whole / "seeds", other / "seeds")
    assert call("cams", voc, other, "--context", str(whole / "vision/adapted")) == 0
    assert files(other / "vision/cams") == before
    assert not (other / "vision/adapted").exists()
    # Else the figures of text prototypes would lie under "vision".
    assert call("cams", voc, other, "--context", str(output / "text/adapted")) == 2
    assert "prototypes must be 'text'; got 'vision'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        (bank_stage.np, "savez", 3),
        (adapt_stage, "adapt_prototypes", 0),
        (cams_stage, "write_cams", 3),
    ],
    ids=OWN,
)
def test_stopped_in_a_stage_a_re_run_ends_with_the_same_files(
    module: object,
    name: str,
    after: int,
    voc: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.rmtree(output / "vision")
    write: Callable[..., None] = getattr(module, name)
    calls = 0

    def stops(*args: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stops)
        with pytest.raises(KeyboardInterrupt):
            [call(stage, voc, output) for stage in OWN]
    for stage in OWN:
        assert call(stage, voc, output) == 0
    expected = files(whole / "vision")
    assert {name: held == expected[name] for name, held in files(output / "vision").items()} == {
        name: True for name in expected if name.split("/")[0] in OWN or name.startswith("adapted")
    }


def test_kill_9_while_the_trained_prototypes_are_written(
    voc: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "vision/bank", tmp_path / "vision/bank")
    shutil.copytree(whole / "prototypes", tmp_path / "prototypes")
    fixed = ["--dataset", "voc", "--split", "train", "--labels", "masks", "--device", "cpu"]
    arguments = ["adapt", "--root", str(voc), "--output", str(tmp_path), *fixed]
    code = f"""
import os, pathlib, signal
from vpl_plugin.cli.clip_cpal import main
genuine = pathlib.Path.replace
def replace(part, path):
    if path.name == "prototypes.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(part, path)
pathlib.Path.replace = replace
main({arguments!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    adapted = tmp_path / "vision/adapted"
    assert list(adapted.glob(".prototypes.*.part.safetensors"))
    assert call("adapt", voc, tmp_path) == 0
    assert files(adapted) == files(whole / "vision/adapted")


@pytest.mark.parametrize(("held_bytes", "reads"), [(2**30, 1), (0, 2 + 5)], ids=["all", "none"])
def test_the_bank_is_read_once_where_it_fits_in_memory(
    held_bytes: int,
    reads: int,
    voc: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two passes for the context and five epochs read the same files; the results are the same."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.rmtree(output / "vision/adapted")
    genuine, counts = adapt_stage.read_instances, Counter()

    def counted(path: Path) -> StoredInstances:
        counts[path.stem] += 1
        return genuine(path)

    monkeypatch.setattr(adapt_stage, "read_instances", counted)
    limited = partial(adapt_stage.HeldInstances, held_bytes=held_bytes)
    monkeypatch.setattr(adapt_stage, "HeldInstances", limited)
    assert call("adapt", voc, output) == 0
    assert counts == dict.fromkeys(NAMES, reads)
    assert files(output / "vision/adapted") == files(whole / "vision/adapted")


def test_a_mended_photo_is_taken_up_and_what_was_trained_stays(
    voc: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    adapted = output / "vision/adapted"
    shutil.rmtree(output / "vision/cams")
    shutil.rmtree(adapted)
    cat = output / "vision/bank/cat.npz"
    held = cat.read_bytes()
    cat.unlink()
    assert call("adapt", voc, output) == 1
    before = files(adapted)
    cat.write_bytes(held)
    caplog.clear()
    assert call("adapt", voc, output) == 1
    told = f"from 5 of now 6 photos and is kept; to make it anew from all of them, delete {adapted}"
    assert told in caplog.text
    assert files(adapted) == before
    assert call("cams", voc, output) == 0
    assert len(list((output / "vision/cams").glob("*.npz"))) == 6


@pytest.mark.parametrize("command", ["clip_es", "clip_cpal"])
def test_help_does_not_wait_for_torch(command: str) -> None:
    code = f"""
import sys
from vpl_plugin.cli.{command} import main
try:
    main(["all", "--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("command", "kind"), [(clip_es, Settings), (clip_cpal, CPALSettings)], ids=["es", "cpal"]
)
def test_options_left_out_are_the_settings_defaults(
    command: ModuleType, kind: type[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Settings] = []
    monkeypatch.setattr(pipeline, "listed_photos", lambda _: PhotoSet(VOC, [], {}))
    monkeypatch.setattr(pipeline, "_run_stages", lambda _, run, *__: used.append(run.settings))
    fixed = ("--dataset", "voc", "--root", "data", "--output", str(tmp_path))
    assert command.main(["seeds", *fixed]) == 0
    assert used == [kind(output=tmp_path, source=used[0].source)]


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("cams", (), "run the stage 'adapt' first"),
        ("adapt", (), "run the stage 'bank' first"),
        ("bank", (), "run the stage 'learn' first"),
        ("bank", ("--top-k", "0"), "--top-k must be a whole number, 1 or more"),
        ("bank", ("--blend", "1.5"), "blend must lie in [0, 1]"),
        ("bank", ("--epochs", "-1"), "--epochs must be a finite number, 0 or more"),
        ("cams", ("--context", "nowhere"), "there are no prototypes at nowhere"),
    ],
)
def test_bad_input(
    stage: str,
    options: tuple[str, ...],
    message: str,
    voc: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(stage, voc, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_other_settings_and_broken_files_are_named(
    voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    assert call("adapt", voc, output, "--clusters", "2") == 2
    assert "clusters was 8, is 2" in capsys.readouterr().err
    assert call("cams", voc, output, "--blend", "0") == 2
    assert "blend was 0.5, is 0.0" in capsys.readouterr().err
    shutil.rmtree(output / "vision/adapted")
    (output / "vision/bank/cat.npz").write_bytes(b"no archive")
    assert call("adapt", voc, output) == 2
    assert "cat.npz is broken" in capsys.readouterr().err
    (output / "vision/bank/cat.npz").unlink()
    shutil.rmtree(output / "vision/adapted")
    assert call("adapt", voc, output) == 1


def test_dry_run_writes_nothing(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("all", voc, tmp_path / "out", "--dry-run") == 0
    assert "bank: 6 photos" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
