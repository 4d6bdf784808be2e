"""Parity with upstream CLIP-ES's COCO script, whose boxes are drawn at 0.7."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vpl_plugin.adapters.clip_es import stages
from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.datasets import coco_photos
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip import COCO, VOC, load_clip
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import cams_to_labels, resize_cams

STRIDE = 8
AS_IN_COCO = {"motorbike": "motorcycle", "diningtable": "dining table"}


def write_photos(root: Path) -> tuple[Path, Path]:
    """The demo's photographs in COCO's layout; their folder, and a label list as upstream's."""
    folder = root / "JPEGImages" / "train2014"
    folder.mkdir(parents=True)
    lines = []
    for item in demo_photos():
        # The same pixels whatever the JPEG library: upstream and Pillow go by the content.
        item.photo.save(folder / f"{item.name}.jpg", format="png")
        labels = COCO.indices([AS_IN_COCO.get(label, label) for label in item.labels])
        lines.append(" ".join([item.name, *map(str, labels)]))
    listed = root / "list.txt"
    listed.write_text("\n".join(lines) + "\n")
    return folder, listed


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).with_name("golden_coco.npz"), allow_pickle=False)


@pytest.mark.parametrize("parity", [True, False])
def test_cams_are_those_of_upstreams_coco_script(golden, tmp_path: Path, parity: bool) -> None:
    write_photos(tmp_path)
    photos = coco_photos(tmp_path, split="list.txt")
    model = load_clip("mini", device="cpu")
    settings = stages.Settings(tmp_path / "out", prototypes="text", parity=parity, workers=1)
    failures: dict[Path, str] = {}
    stages.CAMs().run(Run(photos, settings, model, failures))
    assert not failures
    differing = []
    for item in photos.photos:
        cams = read_cams(settings.cams / f"{item.name}.npz")
        np.testing.assert_array_equal(cams.classes, golden[f"{item.name}/keys"])
        resized = resize_cams(cams.refined, cams.size)
        if parity:
            expected = torch.from_numpy(golden[f"{item.name}/cams"]).float()
            ours = resized[:, ::STRIDE, ::STRIDE].float()
            torch.testing.assert_close(ours, expected, atol=2e-3, rtol=0)
        labels = cams_to_labels(resized, cams.classes).numpy()
        differing.append(float((labels != golden[f"{item.name}/label"]).mean()))
    # Without parity positions are not rounded to float16, which moves a few borders.
    assert max(differing) < (5e-4 if parity else 2e-3)


def test_vocs_box_threshold_gives_other_cams(golden, tmp_path: Path) -> None:
    assert (VOC.box_threshold, COCO.box_threshold) == (0.4, 0.7)
    write_photos(tmp_path)
    names = dataclasses.replace(COCO, box_threshold=VOC.box_threshold)
    photos = coco_photos(tmp_path, split="list.txt", names=names)
    settings = stages.Settings(tmp_path / "out", prototypes="text", parity=True, workers=1)
    stages.CAMs().run(Run(photos, settings, load_clip("mini", device="cpu")))
    differing = []
    for item in photos.photos:
        cams = read_cams(settings.cams / f"{item.name}.npz")
        labels = cams_to_labels(resize_cams(cams.refined, cams.size), cams.classes).numpy()
        differing.append(float((labels != golden[f"{item.name}/label"]).mean()))
    assert max(differing) > 0.02
