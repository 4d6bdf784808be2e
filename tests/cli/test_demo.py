"""vpl demo: the main job, whole."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.cli.main import main
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import read_mask
from vpl_plugin.prototypes import Prototypes


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--output", str(folder), "--device", "cpu"]) == 0
    return folder


def test_the_report_is_one_file_with_all_that_it_shows(output: Path) -> None:
    report = (output / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', report)
    assert "http" not in report
    assert "{{" not in report
    assert len(report) < 1_000_000
    (curves,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', report)
    assert base64.b64decode(curves) == (output / "curves.png").read_bytes()
    listed = re.search(r'id="photos">(.*?)</script>', report, re.DOTALL)
    assert listed
    photos = json.loads(listed[1])
    assert [photo["labels"] for photo in photos] == [list(item.labels) for item in demo_photos()]
    for photo, item in zip(photos, demo_photos(), strict=True):
        data = photo["data"]
        with Image.open(io.BytesIO(base64.b64decode(data["photo"].partition(",")[2]))) as shown:
            assert shown.width / shown.height == pytest.approx(
                item.photo.width / item.photo.height, rel=0.01
            )
            assert np.asarray(shown.convert("L")).std() > 10
        assert list(data["kinds"]) == ["text", "vision"]
        height, width = data["grid"]
        for maps in data["kinds"].values():
            count = len(item.labels)
            held = {
                name: np.frombuffer(base64.b64decode(maps[name]), np.uint8)
                for name in ("cams", "probabilities")
            }
            assert held["cams"].reshape(count, height, width).max(axis=(1, 2)).min() == 255
            sums = held["probabilities"].reshape(count + 2, height, width).sum(axis=0, dtype=int)
            # Each of them is rounded by itself.
            assert np.abs(sums - 255).max() <= (count + 2) / 2
            assert len(maps["mask"]) == len(data["truth"]) == count + 1


def test_a_panel_of_every_photograph_is_written(output: Path) -> None:
    for item in demo_photos():
        with Image.open(output / f"{item.name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10


def test_the_table_holds_both_prototypes(output: Path) -> None:
    report = (output / "report.html").read_text()
    rows = re.findall(r"<td>(text|vision) prototypes</td>(.*?)</tr>", report, flags=re.DOTALL)
    assert [name for name, _ in rows] == ["text", "vision"]
    for _, cells in rows:
        figures = [float(cell) for cell in re.findall(r"<td>([\d.]+)</td>", cells)]
        assert 10 < figures[0] < 90
        assert 0 < figures[-1] < 2


def test_vision_prototypes_gain_on_the_six_photographs(output: Path) -> None:
    report = (output / "report.html").read_text()
    rows = re.findall(r"<td>(?:text|vision) prototypes</td>(.*?)</tr>", report, flags=re.DOTALL)
    text, vision = ([float(cell) for cell in re.findall(r"<td>([\d.]+)</td>", row)] for row in rows)
    # Raw seeds, refined seeds, CRF masks.
    assert all(after > before for before, after in zip(text[:3], vision[:3], strict=True))


def test_prototypes_and_masks_are_written(output: Path) -> None:
    held = Prototypes.load(output / "prototypes.safetensors")
    prototypes, about = held.rows, held.about
    assert prototypes.shape == (45, 256)
    assert held.temperature == 0.03
    assert about["anchor"] == 0.1
    for item in demo_photos():
        assert read_mask(output / f"{item.name}_mask.png").shape == item.mask.shape


def test_photographs_come_with_masks_of_their_size_and_labels() -> None:
    photos = demo_photos()
    assert len({item.name for item in photos}) == len(photos) == 6
    for item in photos:
        assert item.mask.shape == (item.photo.height, item.photo.width)
        assert item.labels
    assert photos[0].labels == ("person",)
