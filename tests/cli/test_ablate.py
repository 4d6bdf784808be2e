"""vpl ablate on a small folder in VOC's layout: tables, resume, bad input."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es import EncodedPhoto
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.cli import ablate
from vpl_plugin.cli.main import main
from vpl_plugin.clip import load_clip
from vpl_plugin.experiments.ablation import bench, learning_curve
from vpl_plugin.experiments.ablation.settings import TABLES, TEXT, Setting
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import read_mask, write_mask


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for item in demo_photos()[:4]:
        item.photo.reduce(4).save(tmp_path / "JPEGImages" / f"{item.name}.jpg")
        rows, columns = (-(-side // 4) for side in item.mask.shape)
        mask = item.mask[::4, ::4][:rows, :columns].copy()
        write_mask(tmp_path / "SegmentationClass" / f"{item.name}.png", mask)
    names = [item.name for item in demo_photos()[:4]]
    split(tmp_path, "train").write_text("\n".join(names[:3]))
    split(tmp_path, "val").write_text(names[3])
    return tmp_path


def split(voc: Path, name: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{name}.txt"


def run(voc: Path, *options: str) -> int:
    out = str(voc / "out")
    return main(["ablate", str(voc), "--output", out, "--device", "cpu", *options])


def test_tables_hold_every_row_and_the_paper_beside_it(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(voc, "--tables", "seeds", "prompts") == 0
    text = (voc / "out" / "tables.md").read_text()
    assert capsys.readouterr().out == text
    assert text.count("| seed ") == 3
    assert "| - |" not in text
    row = next(line for line in text.splitlines() if line.startswith("| text, single prompt"))
    assert row.endswith("| 61.7 / 0.81 |")
    vision = next(line for line in text.splitlines() if line.startswith("| seed 0"))
    gap, loss, passes = vision.split("|")[9:12]
    assert 0 < float(gap) < 2
    assert float(loss) > 0
    assert int(passes) > 1


def test_a_re_run_does_only_what_is_missing(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(voc, "--tables", "seeds") == 0
    stored = (voc / "out" / "results.json").read_bytes()
    monkeypatch.setattr(bench, "encode_photo", None)
    assert run(voc, "--tables", "seeds") == 0
    assert (voc / "out" / "results.json").read_bytes() == stored


def test_every_kind_of_setting_runs(voc: Path) -> None:
    assert run(voc, "--tables", "targets") == 0
    rows = json.loads((voc / "out" / "results.json").read_text())["rows"]
    # The text prototypes are what every row is compared with.
    assert len(rows) == len({*TABLES["targets"].rows, TEXT})
    losses = {row["loss"] for row in rows.values() if "loss" in row}
    assert len(losses) == len(rows) - 1
    text = (voc / "out" / "tables.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| true masks"))
    to_text, to_default = row.split("|")[4:6]
    for cell in (to_text, to_default):
        assert re.fullmatch(r" [+-]\d+\.\d \[-?\d+\.\d, -?\d+\.\d\] ", cell), cell


def test_the_curve_learns_from_fewer_photos_and_draws_a_figure(
    voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_curve, "DRAWS", {1: 2, 2: 1, 400: 5})
    assert run(voc, "--tables", "photos") == 0
    rows = json.loads((voc / "out" / "results.json").read_text())["rows"].values()
    few = [row for row in rows if row["setting"]["photos"] == 1]
    assert len(few) == 2 * 2
    assert all({*row["scores"]} == {"learned", "val"} for row in few)
    lines = (voc / "out" / "tables.md").read_text().splitlines()
    for size, draws in ((1, 2), (2, 1), (3, 3)):
        on_val, on_learned = (
            line for line in lines if line.startswith(f"| {size} photos | {draws}")
        )
        assert len(on_val.split("|")) == 12
        assert len(on_learned.split("|")) == 9
    with Image.open(voc / "out" / "photos.png") as picture:
        assert picture.width > 800


def test_draws_are_seeded_distinct_and_of_the_size_asked_for() -> None:
    drawn = [learning_curve.drawn_photos(Setting(photos=5, draw=draw), 467) for draw in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len({*each}) == 5 and max(each) < 467 for each in drawn)
    assert learning_curve.drawn_photos(Setting(), 7) == list(range(7))
    settings = learning_curve.curve_settings(467)
    assert len({row.key for row in settings}) == len(settings)
    # Half of them without the prior; the draws are the same.
    assert len(settings) / 2 >= 20


def test_a_broken_photo_is_left_out_and_reported(
    voc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = sorted((voc / "JPEGImages").glob("*.jpg"))[0]
    photo.write_bytes(photo.read_bytes()[:500])
    names = [path.stem for path in voc.glob("JPEGImages/*.jpg")]
    split(voc, "train").write_text("\n".join(names))
    assert run(voc, "--tables", "seeds") == 1
    assert f"left out: {photo}: cannot read the photo" in caplog.text
    assert "| - |" not in (voc / "out/tables.md").read_text()
    # Once more, with nothing left to do: it is still missing from the tables.
    caplog.clear()
    assert run(voc, "--tables", "seeds") == 1
    assert f"left out: {photo}: cannot read the photo" in caplog.text


def test_results_of_another_run_are_not_mixed(
    voc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(voc, "--tables", "seeds") == 0
    capsys.readouterr()
    weights = load_clip("mini", device="cpu")
    with torch.no_grad():
        weights.module.visual.proj.add_(0.01)
    monkeypatch.setattr(ablate, "load_model", lambda *_, **__: weights)
    assert run(voc, "--tables", "seeds") == 2
    assert "holds results of another run" in capsys.readouterr().err
    monkeypatch.undo()
    split(voc, "val").write_text(split(voc, "train").read_text())
    assert run(voc, "--tables", "seeds") == 2
    assert "holds results of another run" in capsys.readouterr().err


def test_settings_have_distinct_keys_and_the_library_default_is_in_every_ablation() -> None:
    for name, table in TABLES.items():
        assert len({row.key for row in table.rows}) == len(table.rows) == len(table.paper)
        assert len({table.label(row) for row in table.rows}) == len(table.rows)
        if name != "iterations":
            assert Setting() in table.rows, name


def test_a_mask_of_another_size_is_left_out_and_reported(
    voc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = split(voc, "train").read_text().split()[0]
    photo = voc / f"JPEGImages/{name}.jpg"
    write_mask(voc / f"SegmentationClass/{name}.png", np.full((5, 5), 15, np.uint8))
    assert run(voc, "--tables", "seeds") == 1
    assert f"left out: {photo}: " in caplog.text
    assert f"{name}.png is of size (5, 5), its photo of" in caplog.text
    text = (voc / "out/tables.md").read_text()
    assert text.count("| seed ") == 3
    assert "| - |" not in text


def test_masks_without_a_class_are_told_with_what_they_hold(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (voc / "SegmentationClass").iterdir():
        truth = read_mask(path)
        write_mask(path, np.where(truth > 0, np.uint8(255), np.uint8(0)))
    assert run(voc, "--tables", "seeds") == 2
    told = capsys.readouterr().err
    assert "train has no photo with a mask that shows a class" in told
    assert "0 (in 3) and 255 (in 3); expected are 0" in told
    assert not (voc / "out").exists()


def test_memory_for_encoded_photos_is_bounded_and_changes_no_figure(
    voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(voc, "--tables", "seeds") == 0
    kept = (voc / "out" / "counts").iterdir()
    expected = {file.name: file.read_bytes() for file in kept}
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    genuine = bench.encode_photo

    def counted(*arguments: Any, **options: Any) -> EncodedPhoto:
        nonlocal most
        encoded = genuine(*arguments, **options)
        alive.append(weakref.ref(encoded.attention))
        most = max(most, sum(photo() is not None for photo in alive))
        return encoded

    monkeypatch.setattr(bench, "encode_photo", counted)
    monkeypatch.setattr(bench, "HELD_BYTES", 0)
    shutil.rmtree(voc / "out")
    assert run(voc, "--tables", "seeds") == 0
    assert {file.name: file.read_bytes() for file in (voc / "out" / "counts").iterdir()} == expected
    # The one at hand, and the one before it.
    assert len(alive) > 4
    assert most <= 2


@pytest.mark.cuda
def test_encoded_photos_are_kept_on_the_cpu(voc: Path, cuda: torch.device) -> None:
    listed = voc_photos(voc, "train", labels="masks", masks="SegmentationClass")
    photos = bench.EncodedPhotos(load_clip("mini", device=cuda), listed.photos, 1e9)
    (photo, _), (at_hand, _) = photos[0], next(photos.on_device([0]))
    for name in ("attention", "features"):
        assert getattr(photo, name).device.type == "cpu"
        assert getattr(at_hand, name).device.type == "cuda"
    assert photos.holds(0)
