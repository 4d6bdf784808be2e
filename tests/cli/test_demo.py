"""vpl demo: the main job, whole."""

from __future__ import annotations

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


def test_the_report_opens_from_disk_with_every_picture_it_shows(output: Path) -> None:
    report = (output / "report.html").read_text()
    pictures = re.findall(r'<img src="([^"]+)"', report)
    assert len(pictures) == len(demo_photos()) + 1
    for name in pictures:
        with Image.open(output / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    assert "http" not in report
    assert "{{" not in report


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
