"""A corrected label is taken up: what depends on it is made anew, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.cli import clip_cpal, clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import read_mask
from vpl_plugin.prototypes import Prototypes

CLASSES = ("cat", "dog", "motorbike", "diningtable")
RIGHT = {"cat.png": "cat", "coffee.png": "diningtable", "motorbike.png": "motorbike"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    root.mkdir()
    for item in demo_photos():
        if f"{item.name}.png" in RIGHT:
            item.photo.reduce(6).save(root / f"{item.name}.png")
    return root


def table(path: Path, **changed: str) -> Path:
    """A CSV of the labels, some of them wrong."""
    rows = {**RIGHT, **{f"{name}.png": label for name, label in changed.items()}}
    path.write_text("photo,labels\n" + "".join(f"{row},{label}\n" for row, label in rows.items()))
    return path


def files(folder: Path, suffix: str = "") -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob(f"*{suffix}"))
        if path.is_file()
    }


def vpl_cams(folder: Path, output: Path, labels: Path, *options: str) -> int:
    fixed = ["--classes", ",".join(CLASSES), "--device", "cpu", "--labels", str(labels)]
    return main(["cams", str(folder), *fixed, "--output", str(output), *options])


def stages(command: Callable[[list[str]], int]) -> Callable[..., int]:
    def call(folder: Path, output: Path, labels: Path, *options: str) -> int:
        data = ["--dataset", "folder", "--root", str(folder), "--classes", ",".join(CLASSES)]
        work = ["--labels", str(labels), "--device", "cpu", "--output", str(output)]
        return command(["all", *data, *work, "--workers", "1", *options])

    return call


COMMANDS = {
    "cams": vpl_cams,
    "clip-es": stages(clip_es.main),
    "clip-cpal": stages(clip_cpal.main),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_all_that_depends_on_a_corrected_label_is_made_anew(
    command: Callable[..., int], folder: Path, tmp_path: Path
) -> None:
    labels = table(tmp_path / "labels.csv", cat="dog")
    assert command(folder, tmp_path / "out", labels) == 0
    first = files(tmp_path / "out")
    # In place, as a user corrects it.
    table(labels)
    assert command(folder, tmp_path / "out", labels) == 0
    assert command(folder, tmp_path / "fresh", labels) == 0
    again, fresh = files(tmp_path / "out"), files(tmp_path / "fresh")
    assert again == fresh
    # The seeds of photos whose labels stayed were not made anew.
    kept = [name for name in first if name.startswith("seeds/") and "cat.png" not in name]
    assert len(kept) == 4
    assert all(first[name] == again[name] for name in kept)
    # And a run without a change makes nothing.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert command(folder, tmp_path / "out", labels) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_with_prototypes_that_stay_only_the_photo_itself_is_made_anew(
    folder: Path, tmp_path: Path
) -> None:
    labels, out = table(tmp_path / "labels.csv", cat="dog"), tmp_path / "out"
    assert vpl_cams(folder, out, labels, "--prototypes", "text") == 0
    results = [path for path in out.rglob("*") if path.suffix in (".npz", ".png")]
    before = {path: path.stat().st_mtime_ns for path in results}
    table(labels)
    assert vpl_cams(folder, out, labels, "--prototypes", "text") == 0
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.relative_to(out).as_posix() for path in changed} == {
        *("cams/cat.png.npz", "masks/cat.png.png", "labels/cat.png.png", "panels/cat.png.png"),
        "probabilities/cat.png.npz",
    }
    assert read_cams(out / "cams/cat.png.npz").classes == (0,)
    assert set(read_mask(out / "masks/cat.png.png").ravel().tolist()) <= {0, 1}


def test_another_photo_of_the_same_name_is_taken_up(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "photos"))
    labels, out = table(tmp_path / "labels.csv"), tmp_path / "out"
    assert vpl_cams(own, out, labels, "--prototypes", "text", "--no-panels") == 0
    with Image.open(own / "cat.png") as photo:
        turned = photo.rotate(180)
    turned.save(own / "cat.png")
    before = read_cams(out / "cams/cat.png.npz").refined
    assert vpl_cams(own, out, labels, "--prototypes", "text", "--no-panels") == 0
    assert not torch.allclose(read_cams(out / "cams/cat.png.npz").refined, before, atol=0.05)


def test_prototypes_of_other_values_under_one_name_are_taken_up(
    folder: Path, tmp_path: Path
) -> None:
    labels, out, own = (
        table(tmp_path / "labels.csv"),
        tmp_path / "out",
        tmp_path / "own.safetensors",
    )
    assert vpl_cams(folder, tmp_path / "learned", labels, "--no-panels") == 0
    learned = Prototypes.load(tmp_path / "learned/prototypes.safetensors")
    learned.save(own)
    options = ("--prototypes", str(own), "--no-panels")
    assert vpl_cams(folder, out, labels, *options) == 0
    before = read_cams(out / "cams/cat.png.npz").raw
    Prototypes(learned.rows, learned.class_names, 0.3).save(own)
    assert vpl_cams(folder, out, labels, *options) == 0
    assert not torch.allclose(read_cams(out / "cams/cat.png.npz").raw, before, atol=1e-3)


def test_a_training_on_other_labels_is_not_gone_on_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = table(tmp_path / "labels.csv", cat="dog"), tmp_path / "out"
    assert vpl_cams(folder, out, labels, "--no-panels") == 0
    prototypes = str(out / "prototypes.safetensors")
    data = ["--dataset", "folder", "--root", str(folder), "--classes", ",".join(CLASSES)]
    shape = ["--width", "32", "--layers", "1", "--heads", "2", "--crop", "64", "--device", "cpu"]
    train = ["train", *data, "--train", str(labels), "--masks", str(out / "masks"), *shape]
    train += ["--iterations", "1", "--batch-size", "3", "--prototypes", prototypes]
    assert main([*train, "--output", str(tmp_path / "decoder")]) == 0
    assert main([*train, "--output", str(tmp_path / "decoder")]) == 0
    capsys.readouterr()
    table(labels)
    assert main([*train, "--output", str(tmp_path / "decoder")]) == 2
    assert "results of other settings (pseudo_masks was" in capsys.readouterr().err


def test_a_decoder_that_is_given_other_classes_of_a_photo_segments_it_anew(
    folder: Path, decoder_file: Path, tmp_path: Path
) -> None:
    labels, out = table(tmp_path / "labels.csv", cat="dog"), tmp_path / "out"
    segment = ["segment", str(folder), "--checkpoint", str(decoder_file), "--device", "cpu"]
    segment += ["--labels", str(labels), "--output", str(out), "--overlays"]
    assert main(segment) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(before) == 6
    table(labels)
    assert main(segment) == 0
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    names = {path.relative_to(out).as_posix() for path in changed}
    assert names == {"masks/cat.png.png", "overlays/cat.png.png"}
