"""vpl table3 on tiny photographs: rows, resume, what is reused, the table in words."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.cli.clip_es import main as clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.clip import ClipModel
from vpl_plugin.experiments.table3 import decoders as table3_decoders
from vpl_plugin.experiments.table3.decoders import Regions
from vpl_plugin.experiments.table3.report import markdown
from vpl_plugin.localization import (
    Difference,
    SegmentationMeter,
    paired_difference,
    read_mask,
    write_mask,
)
from vpl_plugin.localization.photo_counts import read_photo_counts
from vpl_plugin.plots.region_plot import tsne
from vpl_plugin.segmentation.checkpoints import load_segmenter
from vpl_plugin.segmentation.inference_settings import InferenceSettings

pytest.importorskip("sklearn")

Run = Callable[..., int]
ROWS = ("I", "II", "III", "IV", "V", "VI")


def call(root: Path, output: Path, *options: object) -> int:
    fixed = (
        *("--dataset", "voc", "--root", root, "--train", "train.txt", "--val", "val.txt"),
        *("--labels", "masks", "--output", output, "--device", "cpu", "--workers", 1),
        *("--width", 32, "--layers", 1, "--heads", 2, "--crop", 64),
        *("--iterations", 4, "--batch-size", 2, "--checkpoint-every", 2, "--seeds", 0, 1),
    )
    return main(["table3", *map(str, (*fixed, *options))])


@pytest.fixture(scope="module")
def whole(voc_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an undisturbed run."""
    output = tmp_path_factory.mktemp("table3") / "whole"
    assert call(voc_tiny, output) == 0
    return output


def results(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_row_has_its_figures(whole: Path) -> None:
    rows = {row["number"]: row for row in results(whole)["rows"]}
    assert tuple(rows) == ROWS
    for number, row in rows.items():
        seeds = 1 if number in ("I", "II", "III") else 2
        assert len(row["given"]) == seeds
        assert len(row["free"]) == (0 if seeds == 1 else 2)
        assert all(0 <= value <= 1 for value in (*row["given"], *row["free"]))
    table = (whole / "table3.md").read_text()
    assert all(f"| {number} |" in table for number in ROWS)
    assert len(list((whole / "panels").iterdir())) == 4
    assert (whole / "regions.png").exists()


def test_rows_iv_to_vi_are_the_miou_of_the_label_maps(whole: Path, voc_tiny: Path) -> None:
    rows = {row["number"]: row for row in results(whole)["rows"]}
    for number, folder, kind in (("IV", "ce", "free"), ("V", "rsc", "free"), ("VI", "rsc", "crf")):
        meter = SegmentationMeter(21)
        for name in (voc_tiny / "val.txt").read_text().split():
            predicted = whole / "segmentations" / f"{folder}_seed1" / kind / f"{name}.png"
            meter.update(
                read_mask(predicted), read_mask(voc_tiny / "SegmentationClass" / f"{name}.png")
            )
        assert rows[number]["free"][1] == pytest.approx(meter.compute().miou)


def test_the_differences_are_those_of_vpl_compare(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(whole)["differences"]
    steps = ["IV - III", "V - IV", "VI - V"]
    assert {told: [*each] for told, each in found.items()} == {"given": steps, "free": steps}
    folders = {
        name: [whole / "segmentations" / f"{name}_seed{seed}" for seed in (0, 1)]
        for name in ("ce", "rsc")
    }

    def counts(name: str, kind: str) -> torch.Tensor:
        runs = [read_photo_counts(folder / "photo_counts.npz") for folder in folders[name]]
        return torch.stack([run.kinds[kind] for run in runs])

    expected = paired_difference(counts("rsc", "free"), counts("ce", "free"))
    assert found["free"]["V - IV"] == pytest.approx(expected._asdict())
    expected = paired_difference(counts("rsc", "crf_given"), counts("rsc", "given"))
    assert found["given"]["VI - V"] == pytest.approx(expected._asdict())
    sides = [
        f"{whole / 'val/with_prototypes'}:labels",
        ",".join(f"{folder}:free" for folder in folders["ce"]),
    ]
    assert main(["compare", *sides]) == 0
    gain = capsys.readouterr().out.splitlines()[-1].split(" | ")[-1].removesuffix(" |")
    assert f"| IV - III | {gain} |" in (whole / "table3.md").read_text()


def test_the_errors_are_what_the_pixels_lack(whole: Path, voc_tiny: Path) -> None:
    decoders = results(whole)["decoders"]
    for name, kind in (("ce", "free"), ("rsc", "crf")):
        scores = decoders[name]["1"]["scores"][kind]
        wrong = sum(scores["errors"].values())
        assert wrong == pytest.approx(1 - scores["pixel_accuracy"])
        pixels = missed = 0
        for item in (voc_tiny / "val.txt").read_text().split():
            truth = read_mask(voc_tiny / "SegmentationClass" / f"{item}.png")
            found = read_mask(whole / "segmentations" / f"{name}_seed1" / kind / f"{item}.png")
            pixels += int((truth != 255).sum())
            missed += int(((truth != 255) & (truth > 0) & (found == 0)).sum())
        assert scores["errors"]["class_to_background"] == pytest.approx(missed / pixels)


def test_given_labels_are_kept_to(whole: Path, voc_tiny: Path) -> None:
    for name in (voc_tiny / "val.txt").read_text().split():
        allowed = {*np.unique(read_mask(voc_tiny / "SegmentationClass" / f"{name}.png")), 0}
        for kind in ("given", "crf_given"):
            found = read_mask(whole / "segmentations/rsc_seed0" / kind / f"{name}.png")
            assert set(np.unique(found)) <= allowed


def test_with_and_without_rsc_differ_in_nothing_but_its_weight(whole: Path) -> None:
    runs = [
        json.loads((whole / "decoders" / name / "run.json").read_text())
        for name in ("ce_seed0", "rsc_seed0")
    ]
    weights = [run["settings"].pop("lambda_rsc") for run in runs]
    assert weights == [0.0, 0.1]
    assert runs[0] == runs[1]
    without, with_rsc = (
        load_file(whole / "decoders" / name / "decoder.safetensors")
        for name in ("ce_seed0", "rsc_seed0")
    )
    assert without.keys() == with_rsc.keys()
    assert any(not torch.equal(without[name], with_rsc[name]) for name in without)


def test_run_again_nothing_is_made_anew(whole: Path, voc_tiny: Path) -> None:
    kept = {
        path: path.stat().st_mtime_ns
        for folder in ("train", "val", "cache", "decoders")
        for path in (whole / folder).rglob("*")
        if path.is_file()
    }
    masks = {path: path.stat().st_mtime_ns for path in (whole / "segmentations").rglob("*.png")}
    before = results(whole)
    assert call(voc_tiny, whole) == 0
    assert results(whole) == before
    assert all(path.stat().st_mtime_ns == time for path, time in {**kept, **masks}.items())


def test_stopped_in_the_last_decoder_it_ends_with_the_same_files(
    whole: Path, voc_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.rmtree(output / "decoders/rsc_seed1")
    shutil.rmtree(output / "segmentations/rsc_seed1")
    genuine, calls = table3_decoders.region_embeddings, []

    def stopped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return genuine(*arguments)

    monkeypatch.setattr(table3_decoders, "region_embeddings", stopped)
    with pytest.raises(KeyboardInterrupt):
        call(voc_tiny, output)
    # What is measured so far is on disk as a table.
    rows = {row["number"]: row for row in results(output)["rows"]}
    assert (len(rows["IV"]["free"]), len(rows["V"]["free"])) == (2, 1)
    monkeypatch.setattr(table3_decoders, "region_embeddings", genuine)
    assert call(voc_tiny, output) == 0
    mine, theirs = results(output), results(whole)
    mine["settings"].pop("output")
    theirs["settings"].pop("output")
    assert mine == theirs
    decoder = "decoders/rsc_seed1/decoder.safetensors"
    assert (output / decoder).read_bytes() == (whole / decoder).read_bytes()
    assert files(output / "segmentations") == files(whole / "segmentations")


def test_the_regions_follow_a_mended_photo(
    whole: Path,
    voc_tiny: Path,
    mini: ClipModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the other photos they are not made anew."""
    root = Path(shutil.copytree(voc_tiny, tmp_path / "VOC2012"))
    photos = voc_photos(root, root / "val.txt", labels="masks")
    decoder, folder = whole / "decoders/rsc_seed0", tmp_path / "measured"
    segmenter = load_segmenter(decoder / "decoder.safetensors", mini)
    measured: list[object] = []
    genuine = table3_decoders.region_embeddings

    def counted(*arguments: object) -> object:
        measured.append(arguments)
        return genuine(*arguments)

    monkeypatch.setattr(table3_decoders, "region_embeddings", counted)

    def measure() -> tuple[Regions, dict[Path, str]]:
        failures: dict[Path, str] = {}
        measured.clear()
        settings = InferenceSettings()
        _, regions = table3_decoders.measure_decoder(
            segmenter, decoder, folder, photos, settings, failures, crf=False, workers=1
        )
        return regions, failures

    broken = photos.photos[1]
    held = broken.photo.read_bytes()
    broken.photo.write_bytes(held[:900])
    without, failures = measure()
    assert list(failures) == [broken.photo]
    broken.photo.write_bytes(held)
    mended, failures = measure()
    assert failures == {}
    assert len(measured) == 1
    assert len(mended.classes) > len(without.classes)
    with np.load(whole / "segmentations/rsc_seed0/regions.npz", allow_pickle=False) as stored:
        assert np.array_equal(mended.classes, stored["classes"])
        np.testing.assert_allclose(mended.embeddings, stored["embeddings"], atol=1e-4)
    again, _ = measure()
    assert measured == []
    assert np.array_equal(again.embeddings, mended.embeddings)


def test_the_results_of_vpl_clip_es_are_taken_as_they_are(
    whole: Path, voc_tiny: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    common = ("--dataset", "voc", "--root", voc_tiny, "--labels", "masks", "--workers", 1)
    train = (*common, "--split", "train.txt", "--output", output / "train", "--device", "cpu")
    assert clip_es(["all", *map(str, train)]) == 0
    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    for folder in ("cache", "decoders", "segmentations"):
        shutil.copytree(whole / folder, output / folder)
    assert call(voc_tiny, output, "--no-tsne", "--panels", 0) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert results(output)["rows"] == results(whole)["rows"]
    assert not (output / "panels").exists()


def test_other_settings_in_the_same_folder_are_refused(
    whole: Path, voc_tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole / "decoders")
    for options in (("--learning-rate", 0.5), ("--threshold", 0.3), ("--flip",)):
        assert call(voc_tiny, whole, *options) == 2
        assert "other settings" in capsys.readouterr().err
    assert files(whole / "decoders") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 1, 1), "--seeds must differ"),
        (("--crop", 0), "crop"),
        (("--val", "nowhere.txt"), "nowhere.txt"),
        (("--test-scales", -1), "scales"),
        (("--confidence", 2), "confidence"),
    ],
)
def test_bad_input_exits_with_2_before_anything_is_done(
    voc_tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    assert call(voc_tiny, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_v_and_vi_are_not_without_rsc(
    voc_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(voc_tiny, tmp_path / "out", "--lambda-rsc", 0) == 2
    assert "--lambda-rsc must be a finite number above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_scikit_learn_it_says_what_to_install(
    voc_tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert call(voc_tiny, tmp_path / "out") == 2
    assert 'pip install "vpl_plugin[demo]"' in capsys.readouterr().err


def test_tsne_keeps_clusters_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(8)[[0] * 10 + [3] * 10] * rng.uniform(1, 9, (20, 1))
    points = tsne(centres + 0.01 * rng.normal(size=(20, 8)))
    assert points.shape == (20, 2)
    middles = points[:10].mean(axis=0), points[10:].mean(axis=0)
    spread = max(points[:10].std(), points[10:].std())
    assert np.linalg.norm(middles[0] - middles[1]) > spread
    with pytest.raises(ValueError, match="4 or more"):
        tsne(np.eye(3))


def phase1(*figures: float) -> dict:
    text, vision, masks = figures
    return {
        "train": {},
        "val": {
            "text": {"refined": {"miou": text}},
            "vision": {"refined": {"miou": vision}, "pseudo_masks": {"labels": masks}},
        },
    }


def decoder(**figures: float) -> dict:
    spread = {"intra": 0.2, "inter": 0.4, "ratio": 0.5, "silhouette": 0.1}
    return {"scores": {kind: {"miou": v} for kind, v in figures.items()}, "compactness": spread}


def test_the_table_tells_where_the_order_is_the_papers() -> None:
    rsc = {"free": 0.5, "given": 0.7, "crf": 0.51, "crf_given": 0.71}
    decoders = {"ce": [decoder(free=0.4, given=0.6)], "rsc": [decoder(**rsc)]}
    text = markdown(phase1(0.3, 0.4, 0.5), decoders, [0], "about")
    assert text.count("each row exceeds the one before it") == 2
    assert "| III | II + CRF: pseudo-masks | - | 50.0 | - | 71.3 |" in text
    assert "±" not in text


def test_the_table_tells_which_row_breaks_it_and_gives_the_spread() -> None:
    rsc = [decoder(free=v, given=0.7, crf=v - 0.05, crf_given=0.71) for v in (0.30, 0.40)]
    ce = [decoder(free=0.4, given=0.6), decoder(free=0.3, given=0.6)]
    text = markdown(phase1(0.3, 0.25, 0.5), {"ce": ce, "rsc": rsc}, [0, 1], "about")
    assert "labels given: not the paper's order: II lies 5.0 points below I." in text
    assert "VI lies 5.0 points below V" in text
    assert "| V | decoder, CE + RSC | 35.0 ± 7.1 | 70.0 ± 0.0 | - | 77.2 |" in text
    assert "| on - off | 0.0 ± 14.1 |" in text


def test_the_table_has_the_errors_and_how_sure_the_steps_are() -> None:
    errors = {"class_to_background": 0.1, "background_to_class": 0.02, "class_to_class": 0.004}
    one = decoder(free=0.4, given=0.6)
    one["scores"]["free"]["errors"] = errors
    differences = {"free": {"V - IV": Difference(0.004, -0.01, 0.02)}, "given": {}}
    text = markdown(phase1(0.3, 0.4, 0.5), {"ce": [one], "rsc": []}, [0], "about", differences)
    assert "| V - IV | +0.4 [-1.0, 2.0] | - |" in text
    assert "| IV | 10.00 | 2.00 | 0.40 |" in text


def test_a_table_that_is_not_finished_holds_dashes() -> None:
    text = markdown(phase1(0.3, 0.4, 0.5), {"ce": [], "rsc": []}, [0], "about")
    assert "| VI | V + CRF | - | - | - | 78.5 |" in text
    assert text.count("not all measured yet") == 2


def test_ground_truth_without_a_class_is_refused_before_any_work(
    voc_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(voc_tiny, tmp_path / "VOC2012"))
    (root / "white").mkdir()
    for path in (root / "SegmentationClass").iterdir():
        write_mask(root / "white" / path.name, (read_mask(path) > 0).astype(np.uint8) * 255)
    (root / "Annotations").mkdir(exist_ok=True)
    for path in (root / "JPEGImages").iterdir():
        annotation = "<annotation><object><name>cat</name></object></annotation>"
        (root / f"Annotations/{path.stem}.xml").write_text(annotation)
    options = ("--labels", "annotations", "--masks", "white")
    assert call(root, tmp_path / "out", *options) == 2
    assert "0 (in 4) and 255 (in 4); expected are 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
