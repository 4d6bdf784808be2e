"""Prototypes that one command made serve the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.clip_es import encode_photo, learn_from_photos
from vpl_plugin.adapters.clip_es.upstream import retrofit
from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.cli import clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.clip import VOC, ClipModel, class_prototypes, open_photo
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.prototypes import Prototypes

STANDIN = Path(__file__).parents[1] / "adapters/standin_clip_es"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for item in demo_photos()[:3]:
        folder = tmp_path / "photos" / item.labels[0]
        folder.mkdir(parents=True)
        item.photo.reduce(6).save(folder / f"{item.name}.jpg")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def of_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--output", str(output), "--device", "cpu"]) == 0
    return output / "prototypes.safetensors"


@pytest.fixture(scope="module")
def of_the_retrofit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by a checkout that gives CLIP what CLIP-ES does, under the data set's names."""
    root = tmp_path_factory.mktemp("retrofit")
    checkout = root / "CLIP-ES"
    shutil.copytree(STANDIN, checkout, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "clip_text.py").write_text(
        f"class_names = {list(VOC.labels)}\nnew_class_names = {list(VOC.prompts)}\n"
        f"BACKGROUND_CATEGORY = {list(VOC.background)}\n"
        "new_class_names_coco = BACKGROUND_CATEGORY_COCO = ['none']\n"
    )
    data = root / "data"
    for folder in ("JPEGImages", "Annotations"):
        (data / folder).mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    for name, label in (("a", "cat"), ("b", "dog"), ("c", "person")):
        Image.fromarray(coarse).resize((48, 33)).save(data / f"JPEGImages/{name}.jpg")
        (data / f"Annotations/{name}.xml").write_text(
            "<annotation><size><height>33</height><width>48</width></size>"
            f"<object><name>{label}</name></object></annotation>"
        )
    done = retrofit(
        checkout, model="mini", img_root=data / "JPEGImages", cam_out_dir=root / "out/voc"
    )
    return done.prototypes


@pytest.mark.parametrize("source", ["of_the_demo", "of_the_retrofit"])
def test_they_serve_the_folder_the_stages_and_training(
    source: str, photos: Path, voc_tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(source)
    held = Prototypes.load(file)
    assert (held.class_names, held.temperature) == (VOC.labels, 0.03)
    given = ["--prototypes", str(file), "--device", "cpu"]
    out = ["--output", str(tmp_path / "cams")]
    assert main(["cams", str(photos), "--classes", "voc", "--no-panels", *given, *out]) == 0
    data = ["--dataset", "voc", "--root", str(voc_tiny), "--labels", "masks"]
    split = ["--split", str(voc_tiny / "train.txt")]
    work = ["--output", str(tmp_path / "stages"), "--workers", "1"]
    assert clip_es.main(["cams", *data, *split, *given, *work]) == 0
    shape = ["--width", "32", "--layers", "1", "--heads", "2", "--crop", "64"]
    train = ["--train", "train.txt", "--masks", str(voc_tiny / "SegmentationClass"), *shape]
    short = ["--iterations", "1", "--batch-size", "2", "--output", str(tmp_path / "decoder")]
    assert main(["train", *data, *train, *given, *short]) == 0


def test_learned_in_memory_they_are_those_of_the_command(
    photos: Path, mini: ClipModel, tmp_path: Path
) -> None:
    out = ["--output", str(tmp_path / "out"), "--no-panels", "--device", "cpu"]
    assert main(["cams", str(photos), "--classes", "voc", "--pixels-per-photo", "9", *out]) == 0
    on_disk = Prototypes.load(tmp_path / "out/prototypes.safetensors")
    encoded = [
        encode_photo(mini, open_photo(item.photo), item.classes, name=item.name)
        for item in folder_photos(photos, VOC).photos
    ]
    learned, _ = learn_from_photos(mini, encoded, class_prototypes(mini, VOC), pixels_per_photo=9)
    # The command keeps features in float16.
    torch.testing.assert_close(on_disk.rows, learned.rows, atol=2e-3, rtol=0)
