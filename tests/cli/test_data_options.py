"""Splits as vpl train and vpl table3 name them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest

from vpl_plugin.adapters.photos.data_set import named_photos
from vpl_plugin.cli.data_options import add_data_arguments, data_source, split_photos
from vpl_plugin.cli.model_options import add_model_arguments
from vpl_plugin.clip import COCO
from vpl_plugin.localization import write_mask


def parsed(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    argv = [str(word) for word in words]
    add_data_arguments(parser, argv, splits=True)
    add_model_arguments(parser)
    return parser.parse_args(argv)


def test_coco_by_folder_and_label_list(voc_tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train2014"
    folder.mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(voc_tiny / "JPEGImages" / f"{name}.jpg", folder)
    cat, cup = COCO.indices(["cat", "cup"])
    (tmp_path / "list.txt").write_text(f"cat {cat}\ncoffee {cup}\nmissing {cup}\n")
    arguments = parsed("--dataset", "coco", "--root", tmp_path)
    photos = split_photos(arguments, "train2014:list.txt", None)
    assert [(item.name, item.classes) for item in photos.photos] == [
        ("cat", (cat,)),
        ("coffee", (cup,)),
    ]
    assert [path.name for path in photos.failures] == ["missing.jpg"]
    assert data_source(arguments, "train2014:list.txt")["subset"] == "train2014"


def test_a_folder_by_csv_with_its_own_classes(voc_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("photo,labels\ncat.jpg,tom\n")
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks/cat.png", np.zeros((4, 4), np.uint8))
    arguments = parsed(
        *("--dataset", "folder", "--root", voc_tiny / "JPEGImages", "--classes", "tom,jerry")
    )
    photos = split_photos(arguments, str(tmp_path / "some.csv"), str(tmp_path / "masks"))
    assert photos.names.labels == ("tom", "jerry")
    assert photos.photos[0].mask == tmp_path / "masks/cat.png"


def test_photos_that_show_nothing_are_left_out_and_told(
    voc_tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(voc_tiny, tmp_path / "VOC2012"))
    write_mask(root / "SegmentationClass/cat.png", np.zeros((4, 4), np.uint8))
    arguments = parsed("--dataset", "voc", "--root", root, "--labels", "masks")
    with caplog.at_level("INFO"):
        photos = split_photos(arguments, "train.txt", None)
    assert len(photos.photos) == 3
    assert "1 photos show none of the classes" in caplog.text
    (tmp_path / "one.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="no photo whose labels are known"):
        split_photos(arguments, str(tmp_path / "one.txt"), None)


@pytest.mark.parametrize("dataset", ["voc", "folder"])
def test_ground_truth_that_is_not_there_is_not_replaced(dataset: str, voc_tiny: Path) -> None:
    classes = ("--classes", "voc") if dataset == "folder" else ()
    arguments = parsed("--dataset", dataset, "--root", voc_tiny, *classes)
    with pytest.raises(FileNotFoundError, match=r"no folder of ground truth .*typo"):
        split_photos(arguments, "train.txt", "typo")


def test_a_folder_takes_no_split(voc_tiny: Path) -> None:
    with pytest.raises(ValueError, match="takes no --split"):
        named_photos("folder", voc_tiny, split="train.txt", classes="voc")


def test_a_folder_without_classes_is_refused(voc_tiny: Path) -> None:
    with pytest.raises(ValueError, match="--classes"):
        split_photos(parsed("--dataset", "folder", "--root", voc_tiny), "labels.csv", None)


def test_when_every_photo_fails_the_reasons_are_told(voc_tiny: Path, tmp_path: Path) -> None:
    arguments = parsed("--dataset", "voc", "--root", voc_tiny)
    with pytest.raises(
        ValueError, match=r"train\.txt has no photo whose labels are known: 4 files"
    ) as told:
        split_photos(arguments, "train.txt", None)
    assert "no folder Annotations: did you mean --labels masks? (4, the first" in str(told.value)
    assert "astronaut.xml)" in str(told.value)


def test_what_a_folder_holds_besides_photos_is_told_once(
    voc_tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(voc_tiny / "JPEGImages", tmp_path / "photos/cat")).parent
    for name in ("1.heic", "2.heic", ".DS_Store"):
        (root / "cat" / name).write_bytes(b"")
    with caplog.at_level("INFO"):
        named_photos("folder", root, classes="cat")
    assert caplog.messages == [
        f"{root}: skipped 3 that are no photos that can be read: 2 of .heic, 1 of .DS_Store"
    ]
