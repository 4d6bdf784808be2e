from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vpl_plugin.localization import present_classes, read_mask, voc_palette, write_mask


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_round_trip(tmp_path_factory, seed, height, width):
    mask = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    write_mask(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_file_is_a_palette_image_in_voc_colours(tmp_path):
    path = tmp_path / "mask.png"
    write_mask(str(path), np.array([[0, 15, 255]], np.uint8))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "P"
        colours = np.array(image.convert("RGB"))[0].tolist()
    assert colours == [[0, 0, 0], [192, 128, 128], [224, 224, 192]]


@pytest.mark.shared
def test_palette_is_that_of_voc_masks(shared_dir):
    first = sorted((shared_dir / "data/voc/SegmentationClass").glob("*.png"))[0]
    with Image.open(first) as image:
        theirs = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(voc_palette()[: len(theirs)], theirs)
    assert len(theirs) >= 21


def test_a_failed_write_leaves_the_old_mask_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    old = np.ones((4, 4), np.uint8)
    write_mask(path, old)

    def half_written(image, target, format):
        target.write_bytes(b"\x89PNG half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="No space left"):
        write_mask(path, np.zeros((4, 4), np.uint8))
    assert os.listdir(tmp_path) == ["mask.png"]
    np.testing.assert_array_equal(read_mask(path), old)


def test_overwrites(tmp_path):
    path = tmp_path / "mask.png"
    for value in (1, 2):
        write_mask(path, np.full((3, 3), value, np.uint8))
    assert (read_mask(path) == 2).all()
    assert os.listdir(tmp_path) == ["mask.png"]


def test_a_reader_never_sees_half_a_mask(tmp_path):
    path = tmp_path / "mask.png"
    write_mask(path, np.full((3, 3), 1, np.uint8))
    before = path.read_bytes()
    with open(path, "rb") as reader:
        write_mask(path, np.full((3, 3), 2, np.uint8))
        assert reader.read() == before


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "broken.png"
    write_mask(path, np.random.default_rng(0).integers(0, 21, (64, 64)).astype(np.uint8))
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2], whole[:20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.png is not a readable mask"):
            read_mask(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_mask(tmp_path / "absent.png")


def test_colours_are_no_labels(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (3, 3)).save(path)
    with pytest.raises(ValueError, match=r"photo\.png must be a palette.*got mode RGB"):
        read_mask(path)


def palette_image(path, indices, colours):
    image = Image.fromarray(np.array(indices, np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)


def test_vocs_colours_at_other_indices_are_read_by_colour(tmp_path):
    path = tmp_path / "mask.png"
    voc = voc_palette().tolist()
    palette_image(path, [[0, 1], [2, 3]], [voc[255], voc[15], voc[0], voc[1]])
    assert read_mask(path).tolist() == [[255, 15], [0, 1]]


@pytest.mark.shared
def test_a_mask_that_was_quantised_is_read_by_colour(shared_dir):
    path = shared_dir / "cases/masks/voc_colours_other_indices.png"
    with Image.open(path) as image:
        colours = np.array(image.convert("RGB"))
    mask = read_mask(path)
    assert np.unique(mask).tolist() == [0, 1, 15, 255]
    np.testing.assert_array_equal(voc_palette()[mask], colours)


def test_vocs_colours_that_may_be_someone_elses_are_refused(tmp_path):
    """Without the colour of 255 they may as well be the labels of other classes."""
    path = tmp_path / "mask.png"
    voc = voc_palette().tolist()
    palette_image(path, [[0, 1], [2, 2]], [voc[0], voc[15], voc[4]])
    with pytest.raises(ValueError, match=r"mask\.png has PASCAL VOC's colours .* label 15 at 1"):
        read_mask(path)


def test_a_palette_whose_background_is_elsewhere_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    palette_image(path, [[0, 1]], [[255, 255, 255], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"mask\.png has black at the palette index 1"):
        read_mask(path)


@pytest.mark.parametrize(
    "colours",
    [
        [[0, 0, 0], [255, 255, 255], [255, 0, 0]],
        [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
        [[0, 0, 0], [128, 0, 0], [0, 0, 0]],
        [[128, 64, 128], [244, 35, 232], [70, 70, 70]],
    ],
    ids=["own colours", "grey levels", "zeros after VOC's", "Cityscapes"],
)
def test_indices_are_the_labels_whatever_other_colours_they_have(tmp_path, colours):
    path = tmp_path / "mask.png"
    palette_image(path, [[0, 1, 2]], colours)
    assert read_mask(path).tolist() == [[0, 1, 2]]


def test_a_decompression_bomb_is_no_mask(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    write_mask(path, np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"mask\.png is not a readable mask: .*decompression bomb"):
        read_mask(path)


def test_bad_masks(tmp_path):
    with pytest.raises(TypeError, match="mask must be a uint8 array"):
        write_mask(tmp_path / "mask.png", np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=r"mask must have shape \(H, W\)"):
        write_mask(tmp_path / "mask.png", np.zeros((3, 3, 3), np.uint8))
    assert not any(tmp_path.iterdir())


def test_labels_leave_out_background_and_ignored_pixels():
    assert present_classes(np.array([[0, 20, 255, 1]], dtype=np.uint8)) == [0, 19]
    assert present_classes(np.array([[0, 255]], dtype=np.uint8)) == []
