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
    with pytest.raises(ValueError, match="line 2: photo 'a' is listed twice"):
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
    with pytest.raises(ValueError, match=r"line 3: photo '1\.jpg' is listed twice"):
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


def test_hidden_and_system_files_are_no_photos(tmp_path: Path) -> None:
    photo(tmp_path / "cat/1.jpg")
    photo(tmp_path / "dog/2.png")
    for path in (
        *(".ipynb_checkpoints/1.jpg", "cat/.trash/1.jpg", "cat/@eaDir/1.jpg/SYNO.jpg"),
        *("__MACOSX/cat/1.jpg", "dog/deep/$RECYCLE.BIN/1.jpg"),
    ):
        photo(tmp_path / path)
    (tmp_path / "cat/._1.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat/set.jpg").mkdir()
    (tmp_path / "dog/notes.txt").write_text("")
    (tmp_path / "dog/3.HEIC").write_text("")
    found = folder_photos(tmp_path, PETS)
    assert [item.name for item in found.photos] == ["cat/1.jpg", "dog/2.png"]
    assert found.failures == {}
    assert found.skipped == {
        **{".ipynb_checkpoints/": 1, ".trash/": 1, "@eaDir/": 1, "__MACOSX/": 1},
        **{"$RECYCLE.BIN/": 1, "._*": 1, ".txt": 1, ".heic": 1},
    }


def test_a_folder_within_a_hidden_one_is_read(tmp_path: Path) -> None:
    photo(tmp_path / ".cache/photos/cat/1.jpg")
    assert len(folder_photos(tmp_path / ".cache/photos", PETS).photos) == 1


def test_a_folder_without_photos_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "1.heic").write_text("")
    with pytest.raises(ValueError, match=r"holds no photo; there are 1 .*: 1 of \.heic"):
        folder_photos(tmp_path, PETS)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "webp", "avif", "gif", "JPG", "tiff"])
def test_suffixes_of_photos(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cat/1.{suffix}"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert [item.photo for item in folder_photos(tmp_path, PETS).photos] == [path]


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "png"])
def test_voc_and_coco_take_photos_of_other_suffixes(voc: Path, suffix: str) -> None:
    path = voc / f"JPEGImages/b.{suffix}"
    (voc / "JPEGImages/b.jpg").rename(path)
    (voc / "SegmentationClass").mkdir()
    found = {item.name: item for item in voc_photos(voc, "train").photos}
    assert found["b"].photo == path
    assert found["b"].mask == voc / "SegmentationClass/b.png"
    (voc / "list.txt").write_text("b 15\n")
    (voc / "JPEGImages").rename(voc / "train2014")
    assert [item.photo.name for item in coco_photos(voc, split="list.txt").photos] == [path.name]


def test_photos_that_share_a_name_in_vocs_layout(voc: Path) -> None:
    photo(voc / "JPEGImages/a.png")
    assert {item.photo.name for item in voc_photos(voc, "train").photos} == {"a.jpg", "b.jpg"}
    (voc / "JPEGImages/a.jpg").rename(voc / "JPEGImages/a.jpeg")
    found = voc_photos(voc, "train")
    assert [item.name for item in found.photos] == ["b"]
    assert "a.jpeg and a.png share the name 'a'" in found.failures[voc / "JPEGImages/a.jpg"]


def test_missing_photos_and_folders_come_with_what_was_meant(voc: Path) -> None:
    (voc / "some.txt").write_text("A\nb\nheic\n")
    (voc / "JPEGImages/heic.heic").write_text("")
    whys = voc_photos(voc, "some.txt").failures
    assert whys[voc / "JPEGImages/A.jpg"].endswith("did you mean a.jpg?")
    assert whys[voc / "JPEGImages/heic.jpg"].endswith("heic.heic is in no format that is read")
    (voc / "Annotations").rename(voc / "annotations")
    found = voc_photos(voc, "train")
    assert found.photos == []
    assert "did you mean annotations or --labels masks?" in found.why_empty()
    assert "3 files failed" in found.why_empty()


def test_an_annotation_that_cannot_be_read_is_that_photos_failure(voc: Path) -> None:
    (voc / "Annotations/a.xml").unlink()
    (voc / "Annotations/a.xml").mkdir()
    found = voc_photos(voc, "train")
    assert [item.name for item in found.photos] == ["b"]
    assert [path.name for path in found.failures] == ["a.xml"]


def test_masks_of_black_and_white_are_no_labels(voc: Path) -> None:
    (voc / "SegmentationClass").mkdir()
    for name in "abc":
        write_mask(voc / f"SegmentationClass/{name}.png", np.array([[0, 255]], np.uint8))
    found = voc_photos(voc, "train", labels="masks")
    assert "0 (in 3) and 255 (in 3); expected are 0" in found.why_empty()


def test_names_with_blanks(voc: Path) -> None:
    for name in ("DJI 0001", "DJI  0002", "DJI"):
        photo(voc / f"JPEGImages/{name}.jpg")
        annotate(voc, name, "cat")
    (voc / "blanks.txt").write_text("DJI 0001\nDJI  0002.jpg\nDJI -1\na  1\n")
    found = voc_photos(voc, "blanks.txt")
    assert [item.name for item in found.photos] == ["DJI 0001", "DJI  0002", "DJI", "a"]
    (voc / "JPEGImages").rename(voc / "train2014")
    (voc / "blanks.txt").write_text("DJI 0001 14\nDJI  0002 14 15\nDJI 16\n")
    assert [(item.name, item.classes) for item in coco_photos(voc, split="blanks.txt").photos] == [
        *(("DJI 0001", (14,)), ("DJI  0002", (14, 15)), ("DJI", (16,)))
    ]


def test_a_pair_of_paths_in_a_line_is_no_name_with_a_blank(voc: Path) -> None:
    (voc / "pairs.txt").write_text("JPEGImages/a.jpg SegmentationClass/b.png\nJPEGImages/b x/a\n")
    assert [item.name for item in voc_photos(voc, "pairs.txt").photos] == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("latin-1", "Latin-1")],
)
def test_lists_and_tables_in_other_encodings_are_named(
    voc: Path, encoding: str, message: str
) -> None:
    (voc / "list.txt").write_bytes("café\na\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"list\.txt must be UTF-8 text.*{message}"):
        voc_photos(voc, "list.txt")
    (voc / "labels.csv").write_bytes("photo,labels\ncafé.jpg,cat\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"labels\.csv must be UTF-8 text.*{message}"):
        folder_photos(voc, PETS, voc / "labels.csv")


def test_rows_that_lead_nowhere_come_with_what_was_meant(tmp_path: Path) -> None:
    photo(tmp_path / "photos/x/1.jpg")
    photo(tmp_path / "photos/2.JPG")
    table = tmp_path / "labels.csv"
    table.write_text(
        "photo,labels\nphotos/x/1.jpg,cat\n1.jpg,cat\nx\\1.jpg,cat\n2.jpg,cat\n2.JPG,Cat\n,cat\n"
    )
    found = folder_photos(tmp_path / "photos", PETS, table)
    assert found.photos == []
    hints = {
        path.relative_to(tmp_path / "photos").as_posix(): why.partition("did you mean ")[2]
        for path, why in found.failures.items()
    }
    assert hints == {
        **dict.fromkeys(["photos/x/1.jpg", "1.jpg", "x\\1.jpg"], "x/1.jpg?"),
        **{"2.jpg": "2.JPG?", "2.JPG": "cat?", ".": ""},
    }
    assert "6 files failed: there is no such photo: did you mean x/1.jpg? (3," in found.why_empty()


def test_an_unreadable_row_of_a_table_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(f"photo,labels\n{'x' * 5000}.jpg,cat\n1.jpg,cat\n")
    found = folder_photos(tmp_path, PETS, table)
    assert [item.name for item in found.photos] == ["1.jpg"]
    assert len(found.failures) == 1
    table.write_text(f"photo,labels\n1.jpg,{'x' * 200_000}\n")
    with pytest.raises(ValueError, match=r"labels\.csv, line \d+, is no CSV: field larger"):
        folder_photos(tmp_path, PETS, table)


def test_empty_rows_of_a_table_are_passed_over(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("photo,labels\n1.jpg,cat\n,\n,\n ,cat\n,dog\n")
    found = folder_photos(tmp_path, PETS, table)
    assert [item.name for item in found.photos] == ["1.jpg"]
    assert found.failures == {tmp_path: "a row has labels and no photo"}


def test_photos_of_one_name_share_no_ground_truth(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "cat/a.png", "cat/b.jpg"):
        photo(tmp_path / "photos" / name)
    masks = tmp_path / "masks"
    (masks / "cat").mkdir(parents=True)
    for name in ("a.png", "b.png", "a.png.png"):
        write_mask(masks / "cat" / name, np.zeros((8, 8), np.uint8))
    found = folder_photos(tmp_path / "photos", PETS, masks=masks)
    assert {item.name: item.mask for item in found.photos} == {
        "cat/a.png": masks / "cat/a.png.png",
        "cat/b.jpg": masks / "cat/b.png",
    }
    assert "name that of this one a.jpg.png" in found.failures[tmp_path / "photos/cat/a.jpg"]


def test_coco_ids_as_text_are_told(coco: Path) -> None:
    file = coco / "annotations/instances_train2014.json"
    held = json.loads(file.read_text())
    for annotation in held["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    file.write_text(json.dumps(held))
    found = coco_photos(coco)
    assert found.photos == []
    assert "6 annotations are of images that are not listed" in found.failures[file]
    assert "did you mean 0, a number?" in found.failures[file]
    assert "4 show none of the classes" in found.why_empty()
    for annotation in held["annotations"]:
        annotation["image_id"] = int(annotation["image_id"])
        annotation["category_id"] = str(annotation["category_id"])
    file.write_text(json.dumps(held))
    assert "did you mean 90, a number?" in coco_photos(coco).why_empty()


def test_names_in_a_label_list_come_with_their_indices(coco: Path) -> None:
    (coco / "list.txt").write_text("two cat\n")
    found = coco_photos(coco, split="list.txt")
    assert "has no class 'cat': the list takes indices" in found.why_empty()
    assert "did you mean 15?" in found.why_empty()


def test_two_images_of_one_name_in_an_instance_file(coco: Path) -> None:
    file = coco / "annotations/instances_train2014.json"
    held = json.loads(file.read_text())
    held["images"].append({"id": 9, "file_name": "one.png"})
    file.write_text(json.dumps(held))
    found = coco_photos(coco)
    assert "lists two images of this name" in found.failures[coco / "JPEGImages/train2014/one.jpg"]
    held["annotations"][0]["image_id"] = [1]
    file.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="no instance file of COCO"):
        coco_photos(coco)
