"""vpl cams on a user's own folder: labels, outputs, resume, broken photos, bad input."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es.stages import masks, photo_batches
from vpl_plugin.cli.main import main
from vpl_plugin.clip import VOC, VisionTokens
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import read_mask
from vpl_plugin.plots.overlay import save_overlay
from vpl_plugin.plots.panels import PanelRow, save_panel
from vpl_plugin.prototypes import Prototypes

Run = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small photographs in folders named after their classes, and the same as a CSV."""
    root = tmp_path / "photos"
    rows = [("photo", "labels")]
    for item in demo_photos()[1:4]:
        path = root / item.labels[0] / f"{item.name}.jpg"
        path.parent.mkdir(parents=True)
        item.photo.reduce(5).save(path)
        rows.append((str(path.relative_to(root)), "; ".join(item.labels)))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def run(folder: Path) -> Run:
    def call(*options: str, output: str = "out", classes: str = "voc") -> int:
        out = str(folder.parent / output)
        return main(
            [
                "cams",
                str(folder),
                "--classes",
                classes,
                "--output",
                out,
                "--device",
                "cpu",
                *options,
            ]
        )

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_cams_masks_and_panels_of_every_photo(run: Run, folder: Path) -> None:
    assert run() == 0
    out = folder.parent / "out"
    with np.load(out / "cams" / "cat" / "cat.jpg.npz", allow_pickle=False) as stored:
        assert stored["labels"].tolist() == ["cat"]
        assert stored["classes"].tolist() == VOC.indices(["cat"])
        assert stored["refined"].shape == stored["raw"].shape == (1, 4, 6)
        assert stored["size"].tolist() == [60, 91]
    mask = read_mask(out / "masks" / "cat" / "cat.jpg.png")
    assert mask.shape == (60, 91)
    assert set(np.unique(mask)) <= {0, VOC.labels.index("cat") + 1}
    assert (out / "panels" / "motorbike" / "motorbike.jpg.png").exists()
    about = Prototypes.load(out / "prototypes.safetensors").about
    assert about["model"] == "mini"
    assert about["photos"] == 3


def listed(report: Path) -> dict[str, Any]:
    """The photos of a report, by name."""
    found = re.search(r'id="photos">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found
    return {photo["name"]: photo for photo in json.loads(found[1])}


def shown(report: Path, name: str) -> dict[str, Any]:
    """What the report shows of a photo."""
    script = report.parent / unquote(listed(report)[name]["script"])
    return json.loads(script.read_text().partition(", ")[2].rstrip().removesuffix(");"))


def test_the_report_shows_the_cams_masks_and_probabilities_that_were_written(
    run: Run, folder: Path
) -> None:
    assert run() == 0
    out = folder.parent / "out"
    assert list(listed(out / "report.html")) == [
        "cat/cat.jpg",
        "diningtable/coffee.jpg",
        "motorbike/motorbike.jpg",
    ]
    data = shown(out / "report.html", "cat/cat.jpg")
    assert data["grid"] == [4, 6]
    assert data["size"] == [91, 60]
    for kind, made in (("text", out / "text"), ("vision", out)):
        for name, file in (("cams", "cams"), ("probabilities", "probabilities")):
            with np.load(made / file / "cat/cat.jpg.npz", allow_pickle=False) as stored:
                maps = stored["refined" if name == "cams" else name].astype(float)
            held = np.frombuffer(base64.b64decode(data["kinds"][kind][name]), np.uint8)
            np.testing.assert_allclose(held / 255, maps.ravel(), atol=0.51 / 255)
    assert data["kinds"]["text"]["mask"] is None
    with Image.open(
        io.BytesIO(base64.b64decode(data["kinds"]["vision"]["mask"][0].partition(",")[2]))
    ) as shape:
        cat = np.asarray(shape.convert("RGBA"))[..., 3] > 0
    mask = read_mask(out / "masks/cat/cat.jpg.png")
    np.testing.assert_array_equal(cat, mask == VOC.labels.index("cat") + 1)
    assert str(folder.parent) not in (out / "report.html").read_text()


def test_a_re_run_makes_the_report_of_changed_photos_alone(run: Run, folder: Path) -> None:
    labels = folder.parent / "labels.csv"
    options = ("--labels", str(labels))
    assert run(*options) == 0
    scripts = folder.parent / "out" / "report"
    before = {path: path.stat().st_mtime_ns for path in scripts.rglob("*.js")}
    assert len(before) == 3
    assert run(*options) == 0
    assert before == {path: path.stat().st_mtime_ns for path in scripts.rglob("*.js")}
    (scripts / "cat/cat.jpg.js").unlink()
    assert run(*options) == 0
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert again == {scripts / "cat/cat.jpg.js"}
    text = labels.read_text()
    labels.write_text(text.replace("motorbike.jpg,motorbike", "motorbike.jpg,motorbike;person"))
    assert run(*options, "--prototypes", "text", output="text") == 0
    found = listed(folder.parent / "text" / "report.html")
    assert found["motorbike/motorbike.jpg"]["labels"] == ["motorbike", "person"]
    data = shown(folder.parent / "text" / "report.html", "motorbike/motorbike.jpg")
    assert list(data["kinds"]) == ["text"]


def test_a_photo_that_broke_since_is_left_out_of_the_report(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run() == 0
    out = folder.parent / "out"
    (out / "report/cat/cat.jpg.js").unlink()
    size = (folder / "cat/cat.jpg").stat().st_size
    (folder / "cat/cat.jpg").write_bytes(b"\0" * size)
    assert run() == 1
    assert "cat.jpg: not in the report: cannot read the photo" in caplog.text
    assert list(listed(out / "report.html")) == [
        "diningtable/coffee.jpg",
        "motorbike/motorbike.jpg",
    ]


def test_without_pictures_there_is_no_report_and_it_can_be_made_later(
    run: Run, folder: Path
) -> None:
    assert run("--no-panels", "--prototypes", "text") == 0
    out = folder.parent / "out"
    assert not {"report.html", "report", "probabilities", "panels"} & {
        path.name for path in out.iterdir()
    }
    cams = files(out / "cams")
    assert run("--prototypes", "text") == 0
    assert len(listed(out / "report.html")) == 3
    assert files(out / "cams") == cams


def test_csv_labels_give_what_folder_names_give(run: Run, folder: Path) -> None:
    assert run("--no-panels") == 0
    labels = str(folder.parent / "labels.csv")
    assert run("--no-panels", "--labels", labels, output="csv") == 0
    from_folders, from_csv = files(folder.parent / "out"), files(folder.parent / "csv")
    del from_folders["run.json"], from_csv["run.json"]
    assert from_folders == from_csv


def test_own_classes_text_prototypes_and_earlier_prototypes(run: Run, folder: Path) -> None:
    own = "cat,diningtable,motorbike"
    assert run("--no-panels", "--prototypes", "text", classes=own) == 0
    assert not (folder.parent / "out" / "prototypes.safetensors").exists()
    assert run("--no-panels", classes=own, output="learned") == 0
    earlier = str(folder.parent / "learned" / "prototypes.safetensors")
    assert run("--no-panels", "--prototypes", earlier, classes=own, output="reused") == 0
    learned, reused = files(folder.parent / "learned"), files(folder.parent / "reused")
    masks = [name for name in learned if name.startswith("masks") and name.endswith(".png")]
    assert len(masks) == 3
    assert all(learned[name] == reused[name] for name in masks)


def test_killed_in_the_middle_a_re_run_ends_with_the_same_files(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(output="whole") == 0
    write, done = masks.write_mask, []

    def killed_at_second(path: Path, mask: np.ndarray, **options: str) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write(path, mask, **options)

    monkeypatch.setattr(masks, "write_mask", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(masks, "write_mask", write)
    kept = done[0].stat().st_mtime_ns
    assert run() == 0
    assert done[0].stat().st_mtime_ns == kept
    assert files(folder.parent / "out") == files(folder.parent / "whole")


def test_a_broken_photo_is_reported_and_the_rest_is_done(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncated = folder / "cat" / "truncated.jpg"
    truncated.write_bytes((folder / "cat" / "cat.jpg").read_bytes()[:700])
    assert run("--no-panels") == 1
    assert "truncated.jpg" in caplog.text
    masks = sorted(path.name for path in (folder.parent / "out" / "masks").rglob("*.png"))
    assert masks == ["cat.jpg.png", "coffee.jpg.png", "motorbike.jpg.png"]


def test_a_photo_too_large_for_the_memory_is_reported_and_the_rest_is_done(
    run: Run,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    full_memory: RuntimeError,
) -> None:
    localise = photo_batches.token_cams

    def small_memory(model: Any, tokens: VisionTokens, *rest: Any, **options: Any) -> Any:
        if tokens.grid == (4, 6):
            raise full_memory
        return localise(model, tokens, *rest, **options)

    monkeypatch.setattr(photo_batches, "token_cams", small_memory)
    assert run("--no-panels") == 1
    assert "cat.jpg: no memory for 1 photo(s) of 60 x 91 pixels: make it smaller" in caplog.text
    masks = sorted(path.name for path in (folder.parent / "out" / "masks").rglob("*.png"))
    assert masks == ["coffee.jpg.png", "motorbike.jpg.png"]


def test_prototypes_of_other_classes_are_refused(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--no-panels", classes="cat,diningtable,motorbike") == 0
    earlier = str(folder.parent / "out" / "prototypes.safetensors")
    options = ("--no-panels", "--prototypes", earlier)
    assert run(*options, classes="motorbike,cat,diningtable", output="other") == 2
    assert "prototypes of other classes" in capsys.readouterr().err
    assert not (folder.parent / "other" / "masks").exists()


def test_the_pictures_of_a_thin_strip_of_a_photo_stay_small(tmp_path: Path) -> None:
    strip = Image.new("RGB", (12, 1200))
    cam = torch.zeros(1200, 12)
    save_panel(
        tmp_path / "panel.png",
        strip,
        [PanelRow("cat", 8, cam, cam)],
        [("mask", np.zeros((1200, 12), np.uint8))],
    )
    save_overlay(tmp_path / "overlay.png", strip, np.ones((1200, 12), np.uint8), ["cat"])
    for name in ("panel.png", "overlay.png"):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) < 3000


def test_where_no_photo_can_be_read_each_is_named(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"no photo")
    assert run("--no-panels") == 2
    assert all(name in caplog.text for name in ("cat.jpg", "coffee.jpg", "motorbike.jpg"))


def test_outputs_of_other_settings_are_not_mixed(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--no-panels", "--prototypes", "text") == 0
    assert run("--no-panels", "--prototypes", "text", "--power", "2") == 2
    assert "power was 1.0" in capsys.readouterr().err


def test_bad_input_is_named_before_any_work(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*options: str, **named: str) -> str:
        assert run(*options, **named) == 2
        assert not (folder.parent / "out").exists()
        return capsys.readouterr().err

    text = message(classes="zebra,dog")
    assert "there is no photo whose labels are known" in text
    assert "has no class 'c" in text
    table = folder.parent / "bad.csv"
    table.write_text("file,label\n")
    assert "must start with the line photo,labels" in message("--labels", str(table))
    assert "no.csv is no file" in message("--labels", "no.csv")
    assert "--power must be a finite number above 0; got -1.0" in message("--power", "-1")
    assert "--threshold must lie in [0, 1]" in message("--threshold", "4")
    assert "--tau-I must be" in message("--tau-I", "0")
    assert "--anchor must be a finite number, 0 or more; got -1.0" in message("--anchor", "-1")
    assert "--pixels-per-photo must be" in message("--pixels-per-photo", "-1")
    assert "lies in the folder of photos" in message(output="photos/vpl_cams")
    many = ",".join(f"class{index}" for index in range(255))
    assert "at most 254 classes, as label maps hold 8 bits; got 255" in message(classes=many)
    (folder.parent / "empty").mkdir()
    assert main(["cams", str(folder.parent / "empty"), "--classes", "voc"]) == 2
    assert main(["cams", str(folder.parent / "absent"), "--classes", "voc"]) == 2


def test_photos_whose_labels_do_not_fit_are_reported_and_the_rest_is_done(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = folder.parent / "some.csv"
    photo, other = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))[:2]
    table.write_text(f"photo,labels\n{photo},cat\n{other},katze\nb.jpg,\nc.jpg,dog\n")
    options = ("--labels", str(table), "--no-panels", "--prototypes", "text")
    assert run(*options) == 1
    assert f"{other}: PASCAL VOC has no class 'katze'" in caplog.text
    assert "b.jpg: no labels" in caplog.text
    assert "c.jpg: there is no such photo" in caplog.text
    assert (folder.parent / f"out/masks/{photo}.png").exists()


def test_the_crf_needs_no_package_of_its_own(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf.densecrf", None)
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf", None)
    assert run("--crf", "--prototypes", "text", "--no-panels") == 0
    masks = [read_mask(path) for path in (folder.parent / "out/masks").rglob("*.png")]
    # Unsure pixels, which only the CRF marks.
    assert len(masks) == len(list(folder.rglob("*.jpg")))
    assert any((mask == 255).any() for mask in masks)


def test_hidden_and_system_files_are_no_photos(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = (*(".ipynb_checkpoints", ".trash", "cat/@eaDir", "__MACOSX/cat"), "cat/folder.jpg")
    for name in hidden:
        (folder / name).mkdir(parents=True)
        (folder / name / "._1.jpg").write_bytes(b"no photo")
    (folder / "cat/1.heic").write_bytes(b"no photo")
    with caplog.at_level("INFO"):
        assert run("--no-panels", "--prototypes", "text") == 0
    assert len([*(folder.parent / "out/masks").rglob("*.png")]) == 3
    assert caplog.text.count("skipped 6 that are no photos") == 1
    assert "1 of .heic" in caplog.text


@pytest.mark.shared
def test_broken_metadata_costs_no_photo(run: Run, folder: Path, shared_dir: Path) -> None:
    for path in (shared_dir / "cases/exif").iterdir():
        shutil.copyfile(path, folder / "cat" / path.name)
    assert run("--no-panels") == 0
    found = files(folder.parent / "out/masks")
    assert sum(name.startswith("cat/") for name in found) == 4


def test_when_every_photo_fails_the_reasons_are_told(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder.parent / "bad.csv"
    table.write_text("photo,labels\nphotos/cat/cat.jpg,cat\ncat/cat.jpg,Cat\n")
    assert run("--labels", str(table)) == 2
    told = capsys.readouterr().err
    assert "there is no photo whose labels are known: 2 files failed" in told
    assert "did you mean cat/cat.jpg?" in told
    assert "did you mean cat?" in told
    assert told.count("\n") == 1
