"""The retrofit, end to end on a stand-in for a checkout of CLIP-ES."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es import encode_photo, photo_cams
from vpl_plugin.adapters.clip_es.stage_files import read_seeds
from vpl_plugin.adapters.clip_es.upstream import UpstreamError, retrofit
from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams
from vpl_plugin.adapters.retrofit import checkout as upstream_checkout
from vpl_plugin.cli.clip_es_upstream import main
from vpl_plugin.clip import load_clip
from vpl_plugin.localization import resize_cams
from vpl_plugin.localization.seeds import NO_SEED
from vpl_plugin.prototypes import Prototypes

SHADOWED = ("clip", "clip_text", "generate_cams_voc12", "pytorch_grad_cam", "utils")
CLASSES = ("cat", "dog", "sheep with wool")
PHOTOS = {
    "a": ((40, 61), ["cat", "sheep", "cat"]),
    "b": ((33, 48), ["dog"]),
    "c": ((64, 32), ["cat"]),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


def make_photos(root: Path) -> dict[str, Any]:
    """Three photos and annotations in VOC's layout, and the arguments that go with them."""
    photos, annotations = root / "JPEGImages", root / "Annotations"
    photos.mkdir(parents=True)
    annotations.mkdir()
    noise = np.random.default_rng(0)
    for name, ((height, width), labels) in PHOTOS.items():
        coarse = noise.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(photos / f"{name}.jpg")
        objects = "".join(f"<object><name>{label}</name></object>" for label in labels)
        (annotations / f"{name}.xml").write_text(
            f"<annotation><size><height>{height}</height><width>{width}</width></size>"
            f"{objects}</annotation>"
        )
    (root / "weights.pt").write_text("3")
    return {"model": root / "weights.pt", "img_root": photos}


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream") / "CLIP-ES"
    source = Path(__file__).parent / "standin_clip_es"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_photos(tmp_path_factory.mktemp("voc"))


def test_a_retrofit_leaves_upstreams_files_and_nothing_else(
    checkout: Path, voc: dict[str, Any], tmp_path: Path
) -> None:
    before, modules, path = fingerprint(checkout), set(sys.modules), list(sys.path)
    device_count = torch.cuda.device_count
    done = retrofit(checkout, cam_out_dir=tmp_path / "voc", **voc)
    assert fingerprint(checkout) == before
    assert sys.path == path
    assert not {name for name in set(sys.modules) - modules if name.split(".")[0] in SHADOWED}
    assert torch.cuda.device_count is device_count

    assert sorted(file.name for file in done.cam_out_dir.iterdir()) == [
        *("a.npy", "b.npy", "c.npy", "vpl")
    ]
    assert [file.name for file in (done.cam_out_dir / "vpl").iterdir()] == [
        "prototypes.safetensors"
    ]
    keys, cams = read_upstream_cams(done.cam_out_dir / "a.npy")
    assert keys.tolist() == [0, 2]
    assert cams.shape == (2, 40, 61)
    # As upstream's evaluation scripts read it.
    theirs = np.load(done.cam_out_dir / "a.npy", allow_pickle=True).item()
    assert np.array_equal(theirs["attn_highres"], cams)
    held = Prototypes.load(done.prototypes)
    W, made_by = held.rows, held.about
    assert W.shape == (5, 16)
    assert made_by == done.made_by
    assert torch.allclose(W.norm(dim=1), torch.ones(5), atol=1e-5)
    assert held.class_names == ("cat", "dog", "sheep with wool")
    assert held.temperature == 0.03
    assert made_by["anchor"] == 0.1

    # Prototypes learned on one split serve another one, and the CAMs are then the same.
    again = retrofit(checkout, cam_out_dir=tmp_path / "again", prototypes=done.prototypes, **voc)
    for name in ("a.npy", "b.npy", "c.npy"):
        assert (again.cam_out_dir / name).read_bytes() == (done.cam_out_dir / name).read_bytes()


def test_the_cams_are_the_native_ones(checkout: Path, voc: dict[str, Any], tmp_path: Path) -> None:
    rows = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    prototypes = Prototypes(torch.nn.functional.normalize(rows, dim=1), CLASSES, 0.05)
    prototypes.save(tmp_path / "W.safetensors")
    done = retrofit(
        checkout,
        model="mini",
        img_root=voc["img_root"],
        cam_out_dir=tmp_path / "out",
        prototypes=tmp_path / "W.safetensors",
    )
    model = load_clip("mini", device="cpu")
    highest = 0.0
    for name in PHOTOS:
        keys, cams = read_upstream_cams(done.cam_out_dir / f"{name}.npy")
        photo = Image.open(voc["img_root"] / f"{name}.jpg")
        encoded = encode_photo(model, photo, keys.tolist())
        # The stand-in has no affinity; its files hold the raw CAMs.
        raw = photo_cams(model, encoded, prototypes).raw
        expected = resize_cams(raw, encoded.size).numpy()
        assert np.abs(cams.astype(np.float32) - expected).max() < 2e-3
        highest = max(highest, expected.max())
    assert highest > 0.5


def test_coco_in_two_processes_gives_what_one_gives(
    checkout: Path, voc: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "split.txt").write_text("a 0 3\nb 1\nc 2\n")
    outputs = [
        retrofit(
            checkout,
            dataset="coco14",
            split_file=tmp_path / "split.txt",
            cam_out_dir=tmp_path / f"coco{workers}",
            num_workers=workers,
            pixels_per_photo=None,
            **voc,
        )
        for workers in (1, 2)
    ]
    one, two = (output.made_by for output in outputs)
    # The gap of the text prototypes is a sum over all pixels and targets.
    assert one["text_gap"] == pytest.approx(two["text_gap"], abs=1e-6)
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)
    keys, _ = read_upstream_cams(outputs[1].cam_out_dir / "a.npy")
    assert keys.tolist() == [0, 3]


def test_a_broken_photo_is_named_and_a_rerun_goes_on(checkout: Path, tmp_path: Path) -> None:
    voc = make_photos(tmp_path / "data")
    broken = voc["img_root"] / "b.jpg"
    whole = broken.read_bytes()
    options = {"cam_out_dir": tmp_path / "out", "prototypes": tmp_path / "W.safetensors", **voc}
    Prototypes(torch.eye(5, 16), CLASSES).save(options["prototypes"])
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UpstreamError, match=r"failed on b\.jpg: OSError: .*[Tt]runcated"):
        retrofit(checkout, **options)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.npy", "vpl"]
    first = (tmp_path / "out" / "a.npy").stat().st_mtime_ns
    broken.write_bytes(whole)
    retrofit(checkout, **options)
    assert (tmp_path / "out" / "a.npy").stat().st_mtime_ns == first
    assert (tmp_path / "out" / "c.npy").exists()
    with pytest.raises(ValueError, match=r"results of other settings \(tau_I was 0.03\)"):
        retrofit(checkout, tau_I=0.04, **options)


def test_a_run_stopped_before_its_prototypes_goes_on(checkout: Path, tmp_path: Path) -> None:
    voc = make_photos(tmp_path / "data")
    broken = voc["img_root"] / "b.jpg"
    whole = broken.read_bytes()
    undisturbed = retrofit(checkout, cam_out_dir=tmp_path / "undisturbed", **voc)
    broken.write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    with pytest.raises(UpstreamError, match=r"failed on b\.jpg"):
        retrofit(checkout, cam_out_dir=output, **voc)
    held = read_seeds(output / "vpl/seeds/a.npz")
    assert {*held.seeds.tolist()} <= {NO_SEED, 0, 2}
    with pytest.raises(ValueError, match="results of other settings"):
        retrofit(checkout, cam_out_dir=output, **{**voc, "threshold": 0.5})
    broken.write_bytes(whole)
    done = retrofit(checkout, cam_out_dir=output, **voc)
    assert done.prototypes.read_bytes() == undisturbed.prototypes.read_bytes()
    for name in PHOTOS:
        file = f"{name}.npy"
        assert (output / file).read_bytes() == (undisturbed.cam_out_dir / file).read_bytes()
    assert not (output / "vpl/seeds").exists()


def arguments_of(checkout: Path, voc: dict[str, Any], output: Path) -> list[str]:
    return [
        *("--upstream", str(checkout), "--model", str(voc["model"])),
        *("--img_root", str(voc["img_root"]), "--cam_out_dir", str(output)),
    ]


def test_the_command(
    checkout: Path, voc: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_of(checkout, voc, tmp_path / "out")
    annotation = tmp_path / "data" / "Annotations" / "b.xml"
    empty = make_photos(tmp_path / "data")
    annotation.write_text(annotation.read_text().replace("<name>dog</name>", ""))
    bad = arguments_of(checkout, empty, tmp_path / "bad")
    assert main([*bad, "--pixels-per-photo", "0"]) == 1
    assert "perform() stopped at b.jpg: it found no valid object" in capfd.readouterr().err
    assert main([*arguments, "--tau-I", "0.05", "--seed", "4"]) == 0
    assert "3/3" in capfd.readouterr().err
    held = Prototypes.load(tmp_path / "out" / "vpl" / "prototypes.safetensors")
    assert held.temperature == 0.05
    assert held.about["settings"]["seed"] == 4
    assert main([*arguments[:-1], str(tmp_path), "--model", "nowhere.pt"]) == 2
    assert "there is no model file nowhere.pt" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"checkout": "nowhere"}, FileNotFoundError, "there is no folder"),
        ({"dataset": "voc07"}, ValueError, "unknown dataset .voc07."),
        ({"model": "ViT.pt"}, FileNotFoundError, r"there is no model file ViT\.pt"),
        ({"split_file": "none.txt"}, FileNotFoundError, r"there is no split file none\.txt"),
        ({"img_root": "none"}, FileNotFoundError, "there is no folder of photos none"),
        ({"prototypes": "W.safetensors"}, FileNotFoundError, "there is no file of prototypes"),
        ({"tau_I": 0.0}, ValueError, "tau_I must be"),
        ({"threshold": 2.0}, ValueError, "threshold must lie in"),
        ({"num_workers": 0}, ValueError, "num_workers must be"),
        ({"pixels_per_photo": -1}, ValueError, "pixels_per_photo must be"),
    ],
)
def test_bad_input_is_named_before_any_work(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    checkout: Path,
    voc: dict[str, Any],
    tmp_path: Path,
) -> None:
    options = {"checkout": checkout, "cam_out_dir": tmp_path / "out", **voc, **change}
    with pytest.raises(error, match=message):
        retrofit(options.pop("checkout"), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "dataset", "message"),
    [
        ("\n", "voc12", "names no photo"),
        ("a\nb\na\n", "voc12", "line 3: photo 'a' is listed twice"),
        ("a 1\n", "voc12", "line 1: it takes a photo's name alone"),
        ("a 1\nb\n", "coco14", "line 2: it takes a photo and the indices of its classes"),
        ("a cat\n", "coco14", "line 1: it takes a photo and the indices of its classes"),
        ("a\nx\ny\n", "voc12", r"4 files of the split are missing: .*x\.jpg.*y\.xml"),
    ],
)
def test_a_split_that_does_not_fit_is_told(
    lines: str, dataset: str, message: str, checkout: Path, voc: dict[str, Any], tmp_path: Path
) -> None:
    split = tmp_path / "split.txt"
    split.write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        retrofit(checkout, split_file=split, dataset=dataset, cam_out_dir=tmp_path / "o", **voc)


def test_a_folder_that_is_no_clip_es_is_told(
    checkout: Path, voc: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    script = other / "generate_cams_voc12.py"
    text = script.read_text()
    options = {"cam_out_dir": tmp_path / "out", **voc}
    script.write_text(text.replace("fg_text_features, cam", "fg_text_features, cam, more"))
    with pytest.raises(ValueError, match=r"unknown shape: its perform takes \(.*cam, more\)"):
        retrofit(other, **options)
    script.write_text(text.replace("def zeroshot_classifier", "def classifier"))
    with pytest.raises(ValueError, match="does not define zeroshot_classifier"):
        retrofit(other, **options)
    script.write_text("def")
    with pytest.raises(ValueError, match="is not readable Python"):
        retrofit(other, **options)
    (other / "clip_text.py").unlink()
    script.unlink()
    with pytest.raises(ValueError, match=r"it lacks generate_cams_voc12\.py, clip_text\.py"):
        retrofit(other, **options)


def test_cams_of_another_program_are_not_taken_for_finished_ones(
    checkout: Path, voc: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "b.npy").write_bytes(b"upstream's")
    with pytest.raises(ValueError, match=r"files of another program, such as b\.npy"):
        retrofit(checkout, cam_out_dir=tmp_path, **voc)
    assert (tmp_path / "b.npy").read_bytes() == b"upstream's"


def test_packages_that_are_missing_are_named_before_anything_runs(
    checkout: Path,
    voc: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    with (other / "generate_cams_voc12.py").open("a") as script:
        script.write("\nfrom lxml import etree\n")
    with (other / "pytorch_grad_cam/__init__.py").open("a") as package:
        package.write(
            "\nfrom . import more\ntry:\n    import wanted\nexcept ImportError:\n    pass\n"
        )
    (other / "pytorch_grad_cam/more.py").write_text("import package_of_nowhere.inner\n")
    found = upstream_checkout._is_installed
    monkeypatch.setattr(
        upstream_checkout, "_is_installed", lambda name: name != "lxml" and found(name)
    )
    assert main(arguments_of(other, voc, tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert "imports lxml, package_of_nowhere, which is not installed" in told
    assert 'pip install "vpl_plugin[upstream]" package_of_nowhere' in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_upstreams_traceback_comes_when_asked_for(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: str
) -> None:
    voc = make_photos(tmp_path / "data")
    (voc["img_root"] / "b.jpg").write_bytes(b"no photo")
    arguments = [*arguments_of(checkout, voc, tmp_path / "out"), "--num_workers", workers]
    assert main(arguments) == 1
    told = capfd.readouterr().err
    assert "Traceback" not in told
    last = told.rstrip().splitlines()[-1]
    assert "failed on b.jpg: UnidentifiedImageError: cannot identify image file" in last
    assert "--traceback" in last
    assert main([*arguments, "--traceback"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_names_with_blanks_and_lists_in_other_encodings(checkout: Path, tmp_path: Path) -> None:
    voc = make_photos(tmp_path / "data")
    for name in ("DJI 1", "DJI 2"):
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            source = tmp_path / "data" / folder / f"c.{suffix}"
            shutil.copy(source, source.with_name(f"{name}.{suffix}"))
    split = tmp_path / "split.txt"
    split.write_text("DJI 1\nDJI 2\n")
    done = retrofit(checkout, split_file=split, cam_out_dir=tmp_path / "out", **voc)
    assert {path.name for path in done.cam_out_dir.glob("*.npy")} == {"DJI 1.npy", "DJI 2.npy"}
    split.write_text("DJI 1\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"split\.txt must be UTF-8 text.*UTF-16"):
        retrofit(checkout, split_file=split, cam_out_dir=tmp_path / "none", **voc)
