"""Photos become the pixels that torchvision's transforms give, and broken ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vpl_plugin.clip import BrokenPhotoError, open_photo, preprocess


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
