"""Splits in VOC's layout: what is missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpl_plugin.adapters.voc_split import present_classes, voc_split


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / f"{name}.{suffix}").touch()
    (tmp_path / "train.txt").write_text("b\n\na 3 7\n")
    return tmp_path


def test_photos_come_in_the_order_of_the_split_file(voc: Path) -> None:
    photos = voc_split(voc, "train.txt")
    assert [item.name for item in photos] == ["b", "a"]
    assert photos[0].photo == voc / "JPEGImages" / "b.jpg"
    assert voc_split(voc, voc / "train.txt") == photos


def test_what_is_missing_is_named(voc: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"split file 'nope.txt' is neither in"):
        voc_split(voc, "nope.txt")
    (voc / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.txt names no photo"):
        voc_split(voc, "empty.txt")
    (voc / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.png is missing; .*train.txt names a"):
        voc_split(voc, "train.txt")


def test_labels_leave_out_background_and_ignored_pixels() -> None:
    assert present_classes(np.array([[0, 20, 255, 1]], dtype=np.uint8)) == [0, 19]
    assert present_classes(np.array([[0, 255]], dtype=np.uint8)) == []
