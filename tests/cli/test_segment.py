"""vpl segment on a user's own photos: label maps, resume, broken photos, scores, bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.cli.main import main
from vpl_plugin.clip import VOC, ClipModel, open_photo
from vpl_plugin.localization import SegmentationMeter, dense_crf, read_mask, write_mask
from vpl_plugin.segmentation import predictions
from vpl_plugin.segmentation.checkpoints import load_segmenter, save_checkpoint
from vpl_plugin.segmentation.inference import segment
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.predictions import crf_labels

Run = Callable[..., int]


@pytest.fixture
def photos(voc_tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(voc_tiny / "JPEGImages", tmp_path / "photos"))


@pytest.fixture
def run(decoder_file: Path, tmp_path: Path) -> Run:
    def call(*words: object, output: str = "out") -> int:
        fixed = ("--checkpoint", decoder_file, "--device", "cpu", "--workers", "1")
        return main(["segment", *map(str, (*words, *fixed, "--output", tmp_path / output))])

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_label_maps_are_those_of_the_library(
    run: Run, photos: Path, decoder_file: Path, mini: ClipModel, tmp_path: Path
) -> None:
    assert run(photos, "--test-scales", 1, 1.5, "--flip", "--window", 48) == 0
    segmenter = load_segmenter(decoder_file, mini)
    for path in photos.iterdir():
        expected = segment(
            segmenter, open_photo(path), scales=(1, 1.5), flip=True, window=48
        ).argmax(dim=0)
        found = read_mask(tmp_path / "out/masks" / f"{path.name}.png")
        assert np.array_equal(found, expected.numpy())
    with Image.open(tmp_path / "out/masks/cat.jpg.png") as mask:
        assert mask.mode == "P"


def test_files_and_folders_and_names_that_clash(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = photos / "inner"
    inner.mkdir()
    shutil.copy(photos / "cat.jpg", inner / "cat.jpg")
    assert run(photos / "coffee.jpg", inner, output="some") == 0
    assert set(files(tmp_path / "some/masks")) == {"coffee.jpg.png", "cat.jpg.png"}
    assert run(photos) == 0
    assert "inner/cat.jpg.png" in files(tmp_path / "out/masks")
    assert run(photos / "cat.jpg", inner, output="other") == 2
    assert "the same name" in capsys.readouterr().err


def test_what_it_wrote_into_the_folder_of_photos_is_no_photo(run: Run, photos: Path) -> None:
    assert run(photos, "--overlays", output="photos/out") == 0
    before = files(photos / "out")
    assert run(photos, "--overlays", output="photos/out") == 0
    assert files(photos / "out") == before


def test_a_photo_too_large_for_the_memory_is_told(
    full_memory: RuntimeError,
    run: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    genuine, calls = predictions.photo_views, []

    def full_once(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise full_memory
        return genuine(*arguments, **options)

    monkeypatch.setattr(predictions, "photo_views", full_once)
    count = len(files(photos))
    assert run(photos) == 1
    assert "too large for the memory: take a (smaller) --window" in caplog.text
    assert len(files(tmp_path / "out/masks")) == count - 1 > 0


def test_a_label_map_too_large_for_the_memory_is_told(
    full_memory: RuntimeError,
    run: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    genuine, calls = predictions.most_likely, []

    def full_once(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise full_memory
        return genuine(*arguments)

    monkeypatch.setattr(predictions, "most_likely", full_once)
    count = len(files(photos))
    assert run(photos) == 1
    assert "too large for the memory" in caplog.text
    assert len(files(tmp_path / "out/masks")) == count - 1


def test_one_pool_of_workers_serves_all_photos(
    photos: Path,
    decoder_file: Path,
    mini: ClipModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pool takes seconds to start; and the next photos are encoded while it works."""
    genuine, pools = predictions.run_jobs, []

    def counted(*arguments: object) -> object:
        pools.append(arguments)
        return genuine(*arguments)

    monkeypatch.setattr(predictions, "run_jobs", counted)
    wanted = [
        predictions.Wanted(path, (predictions.Target(tmp_path / f"{number}{path.name}.png"),))
        for number in range(12)
        for path in sorted(photos.iterdir())
    ]
    assert len(wanted) > 64
    failures: dict[Path, str] = {}
    segmenter = load_segmenter(decoder_file, mini)
    predictions.write_predictions(segmenter, wanted, InferenceSettings(), failures, workers=2)
    assert len(pools) == 1
    assert len(list(tmp_path.glob("*.png"))) == len(wanted)
    assert failures == {}


def test_broken_photos_are_told_and_the_rest_is_done(
    run: Run, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (photos / "cat.jpg").read_bytes()
    (photos / "cat.jpg").write_bytes(whole[: len(whole) // 2])
    assert run(photos) == 1
    assert "cat.jpg" in caplog.text
    assert len(files(tmp_path / "out/masks")) == 5
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/masks").iterdir()}
    (photos / "cat.jpg").write_bytes(whole)
    assert run(photos) == 0
    assert len(files(tmp_path / "out/masks")) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_stopped_on_the_way_it_goes_on(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(photos, output="whole") == 0
    genuine, calls = predictions.write_mask, []

    def stopped(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        genuine(*arguments, **options)

    monkeypatch.setattr(predictions, "write_mask", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(photos)
    monkeypatch.setattr(predictions, "write_mask", genuine)
    assert len(files(tmp_path / "out/masks")) == 2
    assert run(photos) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_scores_against_true_masks(
    run: Run,
    photos: Path,
    voc_tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    masks = Path(shutil.copytree(voc_tiny / "SegmentationClass", tmp_path / "truth"))
    (masks / "coffee.png").unlink()
    options = ("--list", voc_tiny / "val.txt", "--masks", masks, "--overlays")
    names = (voc_tiny / "val.txt").read_text().split()
    assert "coffee" in names
    assert run(photos, *options) == 1
    assert "coffee.png" in caplog.text
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    meter = SegmentationMeter(21)
    for name in set(names) - {"coffee"}:
        predicted = read_mask(tmp_path / "out/masks" / f"{name}.jpg.png")
        meter.update(predicted, read_mask(masks / f"{name}.png"))
    assert scores["miou"] == pytest.approx(meter.compute().miou)
    assert scores["photos"] == len(names) - 1
    assert set(scores["per_class"]) == {"background", *VOC.labels}
    assert f"mIoU {100 * scores['miou']:.1f}" in capsys.readouterr().out
    assert len(files(tmp_path / "out/overlays")) == len(names)


def test_labels_restrict_each_photo(run: Run, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("photo,labels\ncat.jpg,cat\ncoffee.jpg,bottle;diningtable\n")
    assert run(photos, "--labels", file) == 0
    masks = tmp_path / "out/masks"
    assert set(files(masks)) == {"cat.jpg.png", "coffee.jpg.png"}
    allowed = {0, *(index + 1 for index in VOC.indices(["bottle", "diningtable"]))}
    assert set(np.unique(read_mask(masks / "coffee.jpg.png"))) <= allowed
    assert run(photos / "cat.jpg", "--labels", file, output="other") == 2


def test_the_crf_sharpens_and_leaves_out_classes_that_cannot_win() -> None:
    rng = np.random.default_rng(0)
    photo = np.repeat(rng.integers(0, 256, (6, 6, 3)), 6, axis=0).repeat(6, axis=1)
    photo = photo.astype(np.uint8)
    scores = rng.dirichlet((1, 1, 1, 0.01), (36, 36)).astype(np.float32).transpose(2, 0, 1)
    scores[3] = scores[3].clip(0, 0.01)
    scores /= scores.sum(axis=0)
    full = dense_crf(photo, scores.clip(0, 1)).argmax(axis=0)
    assert np.array_equal(crf_labels(photo, scores), full)
    sure = np.zeros_like(scores)
    sure[2] = 1
    assert np.unique(crf_labels(photo, sure)).tolist() == [2]


def test_with_crf_from_worker_processes(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos, "--crf", output="one") == 0
    assert run(photos, "--crf", "--workers", 2, output="one_more") == 0
    assert files(tmp_path / "one/masks") == files(tmp_path / "one_more/masks")
    assert run(photos, output="one") == 2


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"weights": "0" * 16}, "other weights"),
        (
            {"activation": "GELU"},
            "trained with GELU in the encoder; this one of 'mini' has QuickGELU.*--no-quick-gelu",
        ),
    ],
)
def test_another_encoder_is_refused(
    other: dict[str, str],
    told: str,
    photos: Path,
    decoder_file: Path,
    mini: ClipModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoder = load_segmenter(decoder_file, mini).decoder
    made_by = {"encoder": {**mini.fingerprint(), **other}}
    file = tmp_path / "other.safetensors"
    save_checkpoint(file, decoder, model=mini, blocks=(0, 1), classes=VOC.labels, made_by=made_by)
    fixed = ["--checkpoint", str(file), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["segment", str(photos), *fixed]) == 2
    assert re.search(told, capsys.readouterr().err, re.DOTALL)
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no photo or folder nowhere"),
        (("PHOTOS", "--masks", "nowhere"), "no folder of ground truth"),
        (("PHOTOS", "--overlap", "1"), "overlap"),
        (("PHOTOS", "--test-scales", "0"), "scales"),
        (("PHOTOS", "--checkpoint", "none.safetensors"), "no trained decoder"),
    ],
)
def test_bad_input_exits_with_2(
    photos: Path,
    decoder_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    given = [str(photos) if word == "PHOTOS" else word for word in words]
    fixed = ["--checkpoint", str(decoder_file), "--output", str(tmp_path / "out")]
    assert main(["segment", *fixed, *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_takes_paths_below_the_folder(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "in ner").mkdir()
    shutil.copy(photos / "cat.jpg", photos / "in ner/cat.jpg")
    shutil.copy(photos / "cat.jpg", photos / "a.jpg")
    open_photo(photos / "coffee.jpg").save(photos / "a.png")
    file = tmp_path / "list.txt"
    file.write_text("in ner/cat\ncoffee.jpg\n/photos/motorbike.jpg /masks/motorbike.png\na.png\n")
    assert run(photos, "--list", file) == 0
    assert set(files(tmp_path / "out/masks")) == {
        *("in ner/cat.jpg.png", "coffee.jpg.png", "motorbike.jpg.png", "a.png.png")
    }
    for line, message in (
        ("a", "line 1: 'a' may be a.jpg or a.png: write which"),
        ("cat\ncat.jpg", "line 2: photo 'cat.jpg' is listed twice"),
        ("in ner/coffee.jpg", "1 of the photos in"),
        ("Cat", "such as Cat: did you mean cat?"),
    ):
        file.write_text(line)
        assert run(photos, "--list", file, output="none") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert run(photos, "--list", tmp_path / "absent.txt", output="none") == 2


def test_photos_of_one_name_are_scored_each_against_its_own_mask(
    run: Run, photos: Path, voc_tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = Path(shutil.copytree(voc_tiny / "SegmentationClass", tmp_path / "truth"))
    for path in photos.iterdir():
        if path.stem not in ("cat", "coffee"):
            path.unlink()
    open_photo(photos / "coffee.jpg").save(photos / "cat.png")
    shutil.copy(masks / "coffee.png", masks / "cat.png.png")
    assert run(photos, "--masks", masks) == 1
    assert "cat.jpg: not scored: another photo has this name" in caplog.text
    assert json.loads((tmp_path / "out/scores.json").read_text())["photos"] == 2
    (masks / "cat.png").rename(masks / "cat.jpg.png")
    assert run(photos, "--masks", masks) == 0
    assert json.loads((tmp_path / "out/scores.json").read_text())["photos"] == 3


def test_ground_truth_without_a_class_is_refused_before_any_work(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "truth"
    masks.mkdir()
    for path in photos.iterdir():
        height, width = np.asarray(open_photo(path)).shape[:2]
        truth = np.zeros((height, width), np.uint8)
        truth[:9] = 255
        write_mask(masks / f"{path.stem}.png", truth)
    assert run(photos, "--masks", masks) == 2
    printed = capsys.readouterr()
    assert "0 (in 6) and 255 (in 6); expected are 0 for the background, 1 to 20" in printed.err
    assert "mIoU" not in printed.out
    assert not (tmp_path / "out").exists()
    # The one mask with a class is of another size, so that only those without one are left.
    write_mask(masks / "cat.png", np.full((3, 3), 8, np.uint8))
    assert run(photos, "--masks", masks) == 2
    printed = capsys.readouterr()
    assert "0 (in 5) and 255 (in 5)" in printed.err
    assert "mIoU" not in printed.out
    assert not (tmp_path / "out/scores.json").exists()


def test_hidden_and_system_files_are_no_photos(
    run: Run, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = len(files(photos))
    for folder in (".trash", "@eaDir", "__MACOSX", "folder.jpg"):
        (photos / folder).mkdir()
    for name in (".trash/1.jpg", "@eaDir/1.jpg", "__MACOSX/1.jpg", "._cat.jpg"):
        (photos / name).write_bytes(b"no photo")
    with caplog.at_level("INFO"):
        assert run(photos) == 0
    assert len(files(tmp_path / "out/masks")) == count
    assert caplog.text.count("skipped 4 that are no photos") == 1


def test_labels_of_which_none_fits_are_told_with_reasons(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("photo,labels\nphotos/cat.jpg,cat\ncoffee.jpg,Bottle\n")
    assert run(photos, "--labels", file) == 2
    told = capsys.readouterr().err
    assert "did you mean cat.jpg?" in told
    assert "did you mean bottle?" in told
