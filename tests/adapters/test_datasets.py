"""Data sets as they lie on disk: photos, labels, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.adapters.datasets import coco_photos, folder_photos, voc_photos
from vpl_plugin.clip import VOC, ClassNames
from vpl_plugin.localization import write_mask

PETS = ClassNames("pets", ("cat", "dog"), ("cat", "dog"), ("grass",))


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def annotate(root: Path, name: str, *labels: str, before: str = "") -> None:
    things = "".join(
        f"<object><name>{label}</name><difficult>1</difficult></object>" for label in labels
    )
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before}<annotation>{things}</annotation>")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    annotate(tmp_path, "a", "person", "bus", "person")
    annotate(tmp_path, "b", "cat")
    annotate(tmp_path, "c")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\nc\n")
    return tmp_path


def test_voc_reads_annotations_in_the_order_of_the_split(voc: Path) -> None:
    assert all(item.mask is None for item in voc_photos(voc, "train").photos)
    (voc / "SegmentationClass").mkdir()
    found = voc_photos(voc, "train")
    assert [item.name for item in found.photos] == ["b", "a"]
    assert found.photos[1].classes == tuple(VOC.indices(["person", "bus"]))
    assert found.photos[0].mask == voc / "SegmentationClass/b.png"
    assert found.without_labels == 1
    assert found.failures == {}
    (voc / "SegmentationClassAug").mkdir()
    assert voc_photos(voc, "train").photos[0].mask == voc / "SegmentationClassAug/b.png"


def test_voc_lists_may_hold_paths_and_labels_may_come_from_masks(voc: Path) -> None:
    (voc / "paths.txt").write_text("/JPEGImages/a.jpg /SegmentationClass/a.png\n\n")
    (voc / "SegmentationClass").mkdir()
    write_mask(voc / "SegmentationClass/a.png", np.array([[0, 3], [255, 20]], np.uint8))
    found = voc_photos(voc, "paths.txt", labels="masks")
    assert [(item.name, item.classes) for item in found.photos] == [("a", (2, 19))]


def test_names_in_a_list_may_hold_dots_and_follow_a_byte_order_mark(voc: Path) -> None:
    for name in ("d.1", "d.2"):
        photo(voc / "JPEGImages" / f"{name}.jpg")
        annotate(voc, name, "cat")
    (voc / "dots.txt").write_text("d.1\nd.2\na.jpg\n", encoding="utf-8-sig")
    found = voc_photos(voc, "dots.txt")
    assert [item.name for item in found.photos] == ["d.1", "d.2", "a"]


def test_voc_names_what_is_missing_or_wrong(voc: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx">]>'
    annotate(voc, "a", "unicorn")
    annotate(voc, "b", "&x;", before=bomb)
    (voc / "Annotations/c.xml").unlink()
    (voc / "some.txt").write_text("a\nb\nc\nd\n")
    found = voc_photos(voc, "some.txt")
    assert found.photos == []
    whys = {path.name: why for path, why in found.failures.items()}
    assert "PASCAL VOC has no class 'unicorn'" in whys["a.xml"]
    assert "no readable annotation" in whys["b.xml"]
    assert "no labels" in whys["c.xml"]
    assert "no such photo" in whys["d.jpg"]


def test_bad_voc_splits_are_errors(voc: Path, tmp_path: Path) -> None:
    (voc / "empty.txt").write_text("\n \n")
    (voc / "twice.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="names no photo"):
        voc_photos(voc, "empty.txt")
    with pytest.raises(ValueError, match="line 2: photo 'a' stands there twice"):
        voc_photos(voc, "twice.txt")
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation/absent"):
        voc_photos(voc, "absent")
    with pytest.raises(ValueError, match="labels must be one of annotations, masks"):
        voc_photos(voc, "train", labels="guess")
    with pytest.raises(FileNotFoundError, match="not in VOC's layout"):
        voc_photos(voc / "Annotations", "train")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        photo(tmp_path / "JPEGImages/train2014" / f"{name}.jpg")
    (tmp_path / "SegmentationClass/train2014").mkdir(parents=True)
    held = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg"}
            for number, name in enumerate(("one", "two", "three", "gone"))
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"},
                       {"id": 7, "name": "unicorn"}],
        "annotations": [
            {"image_id": image, "category_id": category}
            for image, category in ((0, 90), (0, 1), (0, 90), (2, 1), (2, 7), (3, 1))
        ],
    }  # fmt: skip
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(held))
    return tmp_path


def test_coco_reads_the_instance_file(coco: Path) -> None:
    found = coco_photos(coco)
    assert [(item.name, item.classes) for item in found.photos] == [("one", (79, 0))]
    assert found.photos[0].mask == coco / "SegmentationClass/train2014/one.png"
    assert found.without_labels == 1
    whys = {path.name: why for path, why in found.failures.items()}
    assert "has no class 'unicorn' (category 7" in whys["three.jpg"]
    assert "no such photo" in whys["gone.jpg"]


def test_coco_reads_label_lists(coco: Path) -> None:
    (coco / "list.txt").write_text("two 0 56 0\nthree 80\n")
    found = coco_photos(coco, split="list.txt")
    assert [(item.name, item.classes) for item in found.photos] == [("two", (0, 56))]
    assert "COCO has no class '80'" in next(iter(found.failures.values()))
    (coco / "names.txt").write_text("one\nfour\n")
    found = coco_photos(coco, split="names.txt")
    assert [item.name for item in found.photos] == ["one"]
    assert [path.name for path in found.failures] == ["four.jpg"]


def test_bad_coco_folders_are_errors(coco: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither JPEGImages/val2014 nor val2014"):
        coco_photos(coco, "val2014")
    (coco / "bad.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="no instance file of COCO"):
        coco_photos(coco, instances=coco / "bad.json")
    with pytest.raises(FileNotFoundError, match="there is no instance file"):
        coco_photos(coco, instances=coco / "absent.json")


def test_a_folder_with_a_table(tmp_path: Path) -> None:
    photo(tmp_path / "photos/x/1.jpg")
    photo(tmp_path / "photos/2.png")
    table = tmp_path / "labels.csv"
    table.write_text(
        "photo,labels\nx/1.jpg,dog;cat;dog\n2.png,\ngone.jpg,cat\n../3.jpg,cat\n2.jpg,cow\n"
    )
    found = folder_photos(tmp_path / "photos", PETS, table, masks=tmp_path / "masks")
    assert [(item.name, item.classes) for item in found.photos] == [("x/1.jpg", (1, 0))]
    assert found.photos[0].mask == tmp_path / "masks/x/1.png"
    whys = {path.name: why for path, why in found.failures.items()}
    assert whys["2.png"] == "no labels"
    assert "no such photo" in whys["gone.jpg"]
    assert "outside the folder" in whys["3.jpg"]


def test_a_photo_twice_in_a_table_is_an_error(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("photo,labels\n1.jpg,cat\n1.jpg,dog\n")
    with pytest.raises(ValueError, match=r"line 3: photo '1\.jpg' stands there twice"):
        folder_photos(tmp_path, PETS, table)
    table.write_text("photo,labels\n1.jpg,cat,dog\n")
    with pytest.raises(ValueError, match=r"line 2: photo '1\.jpg' has more than two columns"):
        folder_photos(tmp_path, PETS, table)
    table.write_text("photo,labels\n1.jpg,cat\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"labels\.csv must be UTF-8 text"):
        folder_photos(tmp_path, PETS, table)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    photo(tmp_path / "cat/1.jpg")
    photo(tmp_path / "dog/deep/2.png")
    photo(tmp_path / "cow/3.png")
    found = folder_photos(tmp_path, PETS)
    assert [(item.name, item.classes) for item in found.photos] == [
        ("cat/1.jpg", (0,)),
        ("dog/deep/2.png", (1,)),
    ]
    assert "pets has no class 'cow'" in found.failures[tmp_path / "cow/3.png"]


def test_class_folders_may_be_links_and_a_photo_in_none_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere/1.jpg")
    photo(tmp_path / "photos/stray.jpg")
    (tmp_path / "photos/cat").symlink_to(tmp_path / "elsewhere")
    found = folder_photos(tmp_path / "photos", PETS)
    assert [(item.name, item.classes) for item in found.photos] == [("cat/1.jpg", (0,))]
    assert "no class folder" in found.failures[tmp_path / "photos/stray.jpg"]
