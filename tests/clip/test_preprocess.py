"""Photos become the pixels that torchvision's transforms give, and broken ones are named."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vpl_plugin.clip import BrokenPhotoError, open_photo, preprocess
from vpl_plugin.clip.preprocess import photo_size


def random_photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(
    height=st.integers(1, 80), width=st.integers(1, 80), patch_size=st.sampled_from([8, 14, 16, 32])
)
def test_pixels_match_torchvision(height, width, patch_size):
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

    photo = Image.fromarray(random_photo(height, width))
    size = tuple(int(np.ceil(side / patch_size) * patch_size) for side in (height, width))
    theirs = Compose(
        [
            Resize(size, interpolation=InterpolationMode.BICUBIC),
            ToTensor(),
            Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )(photo)
    ours = preprocess(photo, patch_size)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_an_array_is_the_same_as_its_image():
    photo = random_photo(20, 30)
    assert torch.equal(preprocess(photo), preprocess(Image.fromarray(photo)))
    # A view with negative strides, as cv2 users make to turn BGR into RGB.
    flipped = photo[..., ::-1]
    assert torch.equal(preprocess(flipped), preprocess(np.ascontiguousarray(flipped)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(mode):
    photo = Image.fromarray(random_photo(20, 30)).convert(mode)
    expected = preprocess(np.asarray(photo.convert("RGB")))
    assert torch.equal(preprocess(photo), expected)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("photo.jpg", TypeError, "got <class 'str'>"),
        (np.zeros((4, 4, 3)), TypeError, "an array of float64"),
        (np.zeros((4, 4), np.uint8), ValueError, r"got \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got \(0, 4, 3\)"),
    ],
)
def test_bad_photos_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        preprocess(bad)


def test_more_than_eight_bits_are_refused(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(ValueError, match="'I;16' with more than 8 bits"):
        preprocess(deep)
    deep.save(tmp_path / "deep.png")
    with pytest.raises(BrokenPhotoError, match=r"deep\.png: photo has the mode"):
        open_photo(tmp_path / "deep.png")


def test_a_bad_patch_size_is_refused():
    with pytest.raises(ValueError, match="patch_size must be positive, got 0"):
        preprocess(random_photo(4, 4), 0)


def test_open_photo_decodes_whole_and_in_rgb(tmp_path):
    path = tmp_path / "photo.png"
    array = random_photo(5, 7)
    Image.fromarray(array).save(path)
    photo = open_photo(str(path))
    path.unlink()
    assert photo.mode == "RGB"
    assert np.array_equal(np.asarray(photo), array)


def test_open_photo_turns_a_phones_photo_upright(tmp_path):
    path = tmp_path / "photo.png"
    array = random_photo(5, 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(array).save(path, exif=exif)
    assert np.array_equal(np.asarray(open_photo(path)), np.rot90(array, -1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_size_is_that_of_the_opened_photo_whatever_is_noted(tmp_path, suffix):
    """One rule decides whether a photo is turned; a TIFF is turned by Pillow itself."""
    sideways = {5, 6, 7, 8}
    for orientation in range(10):
        path = tmp_path / f"{orientation}.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(random_photo(5, 7)).save(path, exif=exif)
        opened = open_photo(path)
        assert photo_size(path) == (opened.height, opened.width)
        assert photo_size(path) == ((7, 5) if orientation in sideways else (5, 7))


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        *((0x0112, 2, 2, b"6\0"), (0x0112, 3, 1, b"\x09\0"), (0x0112, 3, 2, b"\x09\0\6\0")),
        *((0x0112, 4, 1, b"\0\0\0\x80"), (0x0112, 5, 1, b"\xff\xff\0\0"), (0x0112, 99, 1, b"6")),
        *((0x011A, 2, 3, b"72\0"), (0x8769, 4, 1, b"\xff\xff\xff\xff")),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_metadata_of_other_types_is_ignored(tmp_path, tag, kind, count, value):
    path = tmp_path / "photo.jpg"
    entry = struct.pack("<HHI4s", tag, kind, count, value)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    Image.fromarray(random_photo(5, 7)).save(path, exif=exif)
    assert photo_size(path) == np.asarray(open_photo(path)).shape[:2] == (5, 7)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("orientation_9.jpg", (64, 96)),
        ("orientation_as_text.jpg", (64, 96)),
        ("resolution_as_text.jpg", (96, 64)),
    ],
)
def test_broken_exif_is_ignored_and_a_sound_orientation_beside_it_is_not(shared_dir, name, size):
    path = shared_dir / "cases/exif" / name
    assert photo_size(path) == np.asarray(open_photo(path)).shape[:2] == size


def test_a_format_that_holds_several_sizes_has_that_of_the_opened_photo(tmp_path):
    path = tmp_path / "icon.jpg"
    Image.fromarray(random_photo(64, 64)).save(path, format="ICO", sizes=[(16, 16), (32, 32)])
    assert photo_size(path) == np.asarray(open_photo(path)).shape[:2]


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "webp", "avif", "gif", "jp2"])
def test_formats_that_pillow_reads_are_photos(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    try:
        Image.fromarray(random_photo(16, 24)).save(path)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow has no {suffix}: {error}")
    assert photo_size(path) == np.asarray(open_photo(path)).shape[:2] == (16, 24)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "text.jpg", "empty.jpg", "header.png"])
def test_a_broken_photo_is_named(tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        Image.fromarray(random_photo(64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif name.startswith("header"):
        Image.fromarray(random_photo(64, 64)).save(path)
        content = bytearray(path.read_bytes())
        content[8:40] = bytes(32)
        path.write_bytes(content)
    else:
        path.write_text("no photo" if name.startswith("text") else "")
    with pytest.raises(BrokenPhotoError, match=name.replace(".", r"\.")):
        open_photo(path)
    assert issubclass(BrokenPhotoError, ValueError)


def test_a_missing_photo_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no photo at .*gone\.jpg"):
        open_photo(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match="there is no photo at"):
        open_photo(tmp_path)


@pytest.mark.shared
def test_voc_photos_open_as_they_lie_on_disk(shared_dir):
    """No orientation is noted in them, so their masks fit."""
    for path in sorted((shared_dir / "golden/voc/JPEGImages").glob("*.jpg")):
        with Image.open(path) as raw:
            assert np.array_equal(np.asarray(raw), np.asarray(open_photo(path)))
