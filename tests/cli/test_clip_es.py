"""vpl-clip-es on small photographs in VOC's and COCO's layouts: results, resume, bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es import stages
from vpl_plugin.adapters.clip_es.stage_files import read_cams, read_seeds
from vpl_plugin.adapters.clip_es.stages import cams as cams_stage
from vpl_plugin.adapters.clip_es.stages import evaluate as evaluate_stage
from vpl_plugin.adapters.clip_es.stages import masks as masks_stage
from vpl_plugin.adapters.clip_es.stages import photo_batches
from vpl_plugin.adapters.clip_es.stages import seeds as seeds_stage
from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams
from vpl_plugin.cli.clip_es import main
from vpl_plugin.clip import COCO, VOC, VisionTokens
from vpl_plugin.localization import mean_iou, read_mask, write_mask
from vpl_plugin.localization.photo_counts import read_photo_counts
from vpl_plugin.prototypes import Prototypes

Run = Callable[..., int]
NAMES = ["astronaut", "cat", "coffee", "motorbike", "admiral", "dining_room"]


def call(stage: str, root: Path, output: Path, *options: str) -> int:
    fixed = ("--dataset", "voc", "--split", "train", "--device", "cpu", "--workers", "1")
    return main([stage, "--root", str(root), "--output", str(output), *fixed, *options])


@pytest.fixture(scope="module")
def whole(voc: Path) -> Path:
    """The files of an undisturbed run."""
    output = voc.parent / "whole"
    assert call("all", voc, output) == 0
    return output


@pytest.fixture
def own_voc(voc: Path, tmp_path: Path) -> Path:
    """A copy of the data to break."""
    return Path(shutil.copytree(voc, tmp_path / "VOC2012"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_all_stages_on_voc(voc: Path, whole: Path) -> None:
    cams = read_cams(whole / "vision/cams/cat.npz")
    assert cams.classes == tuple(VOC.indices(["cat"]))
    assert cams.size == (60, 91)
    assert cams.raw.shape == cams.refined.shape == (1, 4, 6)
    seeds = read_seeds(whole / "seeds/cat.npz")
    assert seeds.features.dtype == np.float16
    assert set(seeds.seeds.tolist()) <= {-1, *cams.classes}
    mask, labels = (read_mask(whole / "vision" / kind / "cat.png") for kind in ("masks", "labels"))
    sure = mask != 255
    assert np.array_equal(mask[sure], labels[sure])
    assert set(np.unique(labels)) <= {0, cams.classes[0] + 1}
    held = Prototypes.load(whole / "prototypes/prototypes.safetensors")
    prototypes, about = held.rows, held.about
    assert prototypes.shape == (45, 256)
    assert about["model"] == "mini"
    assert about["anchor"] == 0.1
    assert about["loss"] < about["text_loss"]
    figures = json.loads((whole / "vision/evaluation.json").read_text())
    assert figures["photos"] == 6
    assert 0.2 < figures["refined"]["miou"] < 1
    assert 0.2 < figures["pseudo_masks"]["labels"] < 1
    # CLIP-ES's eval_cam.py tries these.
    assert list(figures["refined"]["by_power"]) == ["1.0", "2.0"]
    assert len(figures["raw"]["by_power"]) == 10
    counts = read_photo_counts(whole / "vision/photo_counts.npz")
    assert sorted(counts.names) == sorted(NAMES)
    for kind, miou in (
        ("refined", figures["refined"]["miou"]),
        ("labels", figures["pseudo_masks"]["labels"]),
    ):
        assert float(mean_iou(counts.kinds[kind].sum(dim=0))) == pytest.approx(miou)
    assert 0 < figures["pseudo_masks"]["kept"] <= 1
    assert 0.5 < figures["gap"] < 1


def test_text_prototypes_lie_beside_and_share_the_seeds(
    voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    before = files(output)
    for stage in ("cams", "masks", "evaluate"):
        assert call(stage, voc, output, "--prototypes", "text") == 0
    after = files(output)
    assert {name: after[name] for name in before} == before
    assert "text prototypes, 6 photos" in capsys.readouterr().out
    text, vision = (
        json.loads((output / kind / "evaluation.json").read_text()) for kind in ("text", "vision")
    )
    assert text["gap"] != vision["gap"]
    assert text["refined"]["miou"] != vision["refined"]["miou"]


def test_prototypes_of_another_run_keep_apart_and_nothing_is_learned(
    voc: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    file = whole / "prototypes/prototypes.safetensors"
    assert call("all", voc, output, "--prototypes", str(file)) == 0
    kind = output / "with_prototypes"
    assert sorted(path.name for path in output.iterdir()) == ["seeds", "with_prototypes"]
    assert files(kind / "masks").keys() == files(whole / "vision/masks").keys()
    ours, theirs = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (kind, whole / "vision")
    )
    assert ours["refined"] == theirs["refined"]
    assert ours["gap"] == theirs["gap"]


def test_panels_show_both_kinds_and_report_what_is_missing(
    voc: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    shutil.copytree(output / "vision", output / "text")
    assert call("panels", voc, output, "--count", "3") == 0
    panels = sorted((output / "panels").glob("*.png"))
    assert len(panels) == 3
    with Image.open(panels[0]) as both:
        columns = both.width
    shutil.rmtree(output / "text")
    assert call("panels", voc, output, "--count", "3") == 0
    with Image.open(panels[0]) as alone:
        assert alone.width < columns
    (output / f"vision/cams/{panels[0].stem}.npz").unlink()
    assert call("panels", voc, output, "--count", "3") == 1
    assert f"{panels[0].stem}.jpg: not shown" in caplog.text
    assert call("panels", voc, tmp_path / "none") == 2
    assert call("panels", voc, output, "--count", "0") == 2


def test_batch_sizes_and_upstream_files(voc: Path, whole: Path, tmp_path: Path) -> None:
    earlier = whole / "prototypes" / "prototypes.safetensors"
    options = ("--prototypes", str(earlier), "--batch-size", "1", "--upstream-files")
    assert call("cams", voc, tmp_path, *options) == 0
    for name in NAMES:
        one, many = (
            read_cams(folder / "cams" / f"{name}.npz")
            for folder in (tmp_path / "with_prototypes", whole / "vision")
        )
        torch.testing.assert_close(one.raw, many.raw, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.refined, many.refined, rtol=0, atol=1e-5)
    keys, upstream = read_upstream_cams(tmp_path / "with_prototypes/upstream_cams/cat.npy")
    assert keys.tolist() == VOC.indices(["cat"])
    assert upstream.shape == (1, 60, 91)


@pytest.mark.parametrize(
    ("module", "name", "stage"),
    [
        (seeds_stage, "write_seeds", "seeds"),
        (stages.learn, "note_photos", "prototypes"),
        (cams_stage, "write_cams", "vision/cams"),
        (masks_stage, "make_mask", "vision/masks"),
    ],
)
def test_stopped_in_a_stage_a_re_run_ends_with_the_same_files(
    module: object,
    name: str,
    stage: str,
    voc: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, genuine, calls = tmp_path / "out", getattr(module, name), []

    def stopped(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3 or stage == "prototypes":
            raise KeyboardInterrupt
        genuine(*arguments)

    monkeypatch.setattr(module, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        call("all", voc, output)
    monkeypatch.setattr(module, name, genuine)
    # All but the list of photos beside a result that is not there yet.
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.suffix != ".txt"}
    assert call("all", voc, output) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert files(output) == files(whole)


def test_kill_9_leaves_nothing_half_written(voc: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    fixed = ["--dataset", "voc", "--split", "train", "--device", "cpu"]
    arguments = ["seeds", "--root", str(voc), "--output", str(output), *fixed]
    # The third file of seeds is on disk under its temporary name when the process dies.
    code = f"""
import os, signal
import numpy as np
from vpl_plugin.cli.clip_es import main
genuine, done = np.savez, []
def savez(file, **arrays):
    genuine(file, **arrays)
    done.append(file)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
np.savez = savez
main({arguments!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((output / "seeds").glob("[!.t]*.npz"))) == 2
    assert list((output / "seeds").glob(".*.part*"))
    assert call("seeds", voc, output) == 0
    assert files(output / "seeds") == files(whole / "seeds")


@pytest.mark.parametrize(("stage", "missing"), [("masks", []), ("all", ["cams"])])
def test_crf_processes_end_with_a_killed_parent_and_give_the_same_masks(
    stage: str, missing: list[str], voc: Path, whole: Path, tmp_path: Path
) -> None:
    """In their own stage, and where they start with the first CAMs."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    for kind in ("masks", "labels", *missing):
        shutil.rmtree(output / "vision" / kind)
    command = [sys.executable, "-m", "vpl_plugin.cli.clip_es", stage, "--root", str(voc),
               "--output", str(output), "--dataset", "voc", "--split", "train", "--workers", "2",
               "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            _wait_for(lambda: any((output / "vision/masks").glob("[!.]*.png")))
        finally:
            process.kill()
    _wait_for(lambda: not _group(process.pid))
    assert call(stage, voc, output) == 0
    assert files(output) == files(whole)


def test_figures_are_the_same_from_several_processes(
    voc: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    (output / "vision/evaluation.json").unlink()
    # So few photos would be one process's share.
    monkeypatch.setattr(evaluate_stage, "PHOTOS_AT_ONCE", 2)
    assert call("evaluate", voc, output, "--workers", "2") == 0
    assert files(output) == files(whole)


def test_two_ranks_equal_one(
    voc: Path, whole: Path, two_ranks: Callable[..., None], tmp_path: Path
) -> None:
    # So few that the path, which later forks on rounding, is still one.
    iterations = ("--iterations", "20")
    for name in ("one", "two"):
        shutil.copytree(whole / "seeds", tmp_path / name / "seeds")
    assert call("learn", voc, tmp_path / "one", *iterations) == 0
    two_ranks(
        *("vpl_plugin.cli.clip_es", "learn", "--root", str(voc), "--output", str(tmp_path / "two")),
        *("--dataset", "voc", "--split", "train", "--workers", "1", "--device", "cpu", *iterations),
    )
    together, apart = (
        Prototypes.load(tmp_path / name / "prototypes/prototypes.safetensors")
        for name in ("one", "two")
    )
    torch.testing.assert_close(apart.rows, together.rows, rtol=0, atol=1e-4)
    assert apart.about["photos"] == together.about["photos"] == 6
    assert apart.about["loss"] == pytest.approx(together.about["loss"], rel=1e-5)


def _group(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_broken_is_reported_and_the_rest_is_done(
    own_voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cat = own_voc / "JPEGImages/cat.jpg"
    cat.write_bytes(cat.read_bytes()[:900])
    (own_voc / "JPEGImages/coffee.jpg").write_bytes(b"no photo")
    (own_voc / "Annotations/admiral.xml").unlink()
    listed = own_voc / "Annotations/astronaut.xml"
    unknown = "<object><name>astronaut</name></object></annotation>"
    listed.write_text(listed.read_text().replace("</annotation>", unknown))
    (own_voc / "SegmentationClass/motorbike.png").unlink()
    output = tmp_path / "out"
    assert call("all", own_voc, output) == 1
    for told in (
        "cat.jpg: cannot read",
        "coffee.jpg",
        "admiral.xml: there is no such file",
        "has no class 'astronaut'",
        "motorbike.jpg: not scored: there is no",
    ):
        assert told in caplog.text
    assert sorted(path.name for path in (output / "vision/masks").glob("*.png")) == [
        "dining_room.png",
        "motorbike.png",
    ]
    assert json.loads((output / "vision/evaluation.json").read_text())["photos"] == 1


def test_a_mended_photo_is_taken_up_and_what_was_learned_stays(
    own_voc: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cat, annotated = own_voc / "JPEGImages/cat.jpg", own_voc / "Annotations/coffee.xml"
    held = {path: path.read_bytes() for path in (cat, annotated)}
    cat.write_bytes(held[cat][:900])
    annotated.unlink()
    output = tmp_path / "out"
    assert call("all", own_voc, output) == 1
    prototypes = output / "prototypes/prototypes.safetensors"
    before = prototypes.read_bytes()
    for path, content in held.items():
        path.write_bytes(content)
    caplog.clear()
    assert call("all", own_voc, output) == 1
    assert "made from 4 of now 6 photos and is kept" in caplog.text
    assert f"delete {output / 'prototypes'}, {output / 'vision'} and" in caplog.text
    # All CAMs are those of one file of prototypes.
    assert prototypes.read_bytes() == before
    assert json.loads((output / "vision/evaluation.json").read_text())["photos"] == 6
    shutil.rmtree(output / "prototypes")
    shutil.rmtree(output / "vision")
    assert call("all", own_voc, output) == 0
    for name in ("prototypes/prototypes.safetensors", "vision/cams/cat.npz"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_what_was_learned_from_other_photos_is_refused(
    own_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("seeds", "learn"):
        assert call(stage, own_voc, tmp_path) == 0
    split = own_voc / "ImageSets/Segmentation/train.txt"
    split.write_text("\n".join(reversed(NAMES)))
    assert call("learn", own_voc, tmp_path) == 0
    split.write_text("\n".join(NAMES[1:]))
    assert call("learn", own_voc, tmp_path) == 2
    assert "not at hand now, such as astronaut" in capsys.readouterr().err


def test_a_photo_too_large_for_the_memory_is_reported(
    voc: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    genuine = photo_batches.token_cams

    def small(model: object, tokens: VisionTokens, *rest: object, **options: object) -> object:
        if tokens.grid == (4, 6):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return genuine(model, tokens, *rest, **options)

    monkeypatch.setattr(photo_batches, "token_cams", small)
    assert call("seeds", voc, tmp_path) == 1
    assert "cat.jpg: no memory for 1 photo(s) of 60 x 91 pixels" in caplog.text
    monkeypatch.setattr(photo_batches, "token_cams", genuine)
    assert call("seeds", voc, tmp_path) == 0
    assert files(tmp_path / "seeds") == files(whole / "seeds")


def test_a_full_disk(
    voc: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    genuine, calls = seeds_stage.write_seeds, []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(*arguments)

    monkeypatch.setattr(seeds_stage, "write_seeds", full)
    assert call("seeds", voc, tmp_path) == 2
    assert "is full" in capsys.readouterr().err
    monkeypatch.setattr(seeds_stage, "write_seeds", genuine)
    assert call("seeds", voc, tmp_path) == 0
    assert files(tmp_path / "seeds") == files(whole / "seeds")


def test_bad_input(
    own_voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(stage: str, root: Path, output: Path, *options: str) -> str:
        assert call(stage, root, output, *options) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    (own_voc / "ImageSets/Segmentation/train.txt").write_text("\n")
    assert "names no photo" in message("all", own_voc, out)
    assert "there is no split file 'no'" in message("all", own_voc, out, "--split", "no")
    assert "not in VOC's layout" in message("all", tmp_path, out)
    assert not out.exists()


@pytest.mark.parametrize("anchor", ["-1", "nan", "inf"])
def test_a_prior_that_is_none_is_named(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], anchor: str
) -> None:
    assert call("all", voc, tmp_path / "out", f"--anchor={anchor}") == 2
    assert (
        f"anchor must be a finite number, 0 or more; got {float(anchor)}" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_without_a_prior_other_prototypes_are_learned(
    voc: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "seeds", tmp_path / "out/seeds")
    assert call("learn", voc, tmp_path / "out", "--anchor", "0") == 0
    held = Prototypes.load(tmp_path / "out/prototypes/prototypes.safetensors")
    free, about = held.rows, held.about
    anchored = Prototypes.load(whole / "prototypes/prototypes.safetensors").rows
    text = Prototypes.load(whole / "seeds/text_prototypes.safetensors").rows
    assert about["anchor"] == 0
    assert (anchored * text).sum() > (free * text).sum() + 1


def test_what_a_late_stage_would_miss_is_told_before_any_work(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call("all", voc, out, "--prototypes", "none.safetensors") == 2
    assert "there is no file none.safetensors" in capsys.readouterr().err
    assert not out.exists()


def test_prototypes_that_are_not_finite_are_told(
    voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole / "seeds", output / "seeds")
    assert call("learn", voc, output, "--tau-I", "1e-40") == 2
    assert "tau_I = 1e-40" in capsys.readouterr().err
    assert not (output / "prototypes/prototypes.safetensors").exists()


def test_stages_in_the_wrong_order_and_other_settings(
    voc: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, before in (("learn", "seeds"), ("cams", "learn"), ("masks", "cams")):
        assert call(stage, voc, tmp_path / "out") == 2
        assert f"run the stage '{before}' first" in capsys.readouterr().err
    held = files(whole)
    assert call("seeds", voc, whole, "--threshold", "0.5") == 2
    assert "threshold was 0.4, is 0.5" in capsys.readouterr().err
    assert call("masks", voc, whole, "--power", "2") == 2
    assert "power was 1.0, is 2.0" in capsys.readouterr().err
    assert files(whole) == held


def test_dry_run_writes_nothing(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("all", voc, tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "seeds: 6 photos" in printed
    assert "evaluate: 6 photos" in printed
    assert not (tmp_path / "out").exists()


def test_all_stages_on_coco(voc: Path, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(voc / "JPEGImages", root / "train2014")
    labels = {"cat": ["cat"], "astronaut": ["person"], "motorbike": ["motorcycle"], "coffee": []}
    categories = {label: number for number, label in enumerate(COCO.labels, start=10)}
    instances = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(labels)
        ],
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        "annotations": [
            {"image_id": number, "category_id": categories[label]}
            for number, present in enumerate(labels.values())
            for label in present
        ],
    }
    (root / "annotations/instances_train2014.json").write_text(json.dumps(instances))
    arguments = ["all", "--dataset", "coco", "--root", str(root), "--device", "cpu"]
    output = tmp_path / "out"
    assert main([*arguments, "--output", str(output), "--workers", "1"]) == 0
    assert sorted(path.stem for path in (output / "vision/masks").glob("*.png")) == [
        "astronaut",
        "cat",
        "motorbike",
    ]
    assert read_cams(output / "vision/cams/motorbike.npz").classes == tuple(
        COCO.indices(["motorcycle"])
    )
    assert not (output / "vision/evaluation.json").exists()


def test_ground_truth_without_a_class_gets_no_score(
    own_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of one class, its masks of 0 and 255 as editors write them."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for name in ("cat", "coffee"):
        for folder, kind, suffix in (
            (photos, "JPEGImages", "jpg"),
            (masks, "SegmentationClass", "png"),
        ):
            (folder / "cat").mkdir(parents=True, exist_ok=True)
            shutil.copy(own_voc / kind / f"{name}.{suffix}", folder / "cat")

    def run(stage: str) -> int:
        data = ("--dataset", "folder", "--root", photos, "--classes", "cat", "--masks", masks)
        fixed = ("--prototypes", "text", "--device", "cpu", "--workers", 1)
        output = ("--output", tmp_path / "out")
        return main([stage, *map(str, (*data, *fixed, *output))])

    def paint(value: int) -> None:
        for path in (masks / "cat").iterdir():
            write_mask(path, (read_mask(path) > 0).astype(np.uint8) * np.uint8(value))

    paint(255)
    assert run("cams") == 0
    assert run("evaluate") == 2
    told = capsys.readouterr()
    assert "0 (in 2) and 255 (in 2); expected are 0 for the background, 1 for the class" in told.err
    assert "mIoU" not in told.out
    assert run("all") == 2
    assert not (tmp_path / "out/text/evaluation.json").exists()
    assert not (tmp_path / "out/seeds").exists()
    paint(1)
    assert run("evaluate") == 0
    figures = json.loads((tmp_path / "out/text/evaluation.json").read_text())
    assert figures["raw"]["per_class"]["cat"] is not None
    assert 0 < figures["raw"]["miou"] < 1
    # Labels that no class has: nothing is left to score, and the message says why.
    paint(128)
    assert run("evaluate") == 2
    assert "has the label 128, which no class has: it holds 0 and 128" in capsys.readouterr().err
