"""Photo and mask go through the same scale, crop and flip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.segmentation.augmentation import PADDING, augment

SIZES = st.integers(5, 90)
LABELS = np.array([0, 3, 20], np.uint8)


def painted(height, width, seed):
    """A mask of large blocks, and the photo that shows each label by a colour."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(3, size=(3, 3))
    block = blocks[np.arange(height) * 3 // height][:, np.arange(width) * 3 // width]
    photo = np.zeros((height, width, 3), np.uint8)
    photo[np.arange(height)[:, None], np.arange(width), block] = 255
    return photo, LABELS[block]


@given(SIZES, SIZES, st.integers(4, 70), st.integers(0, 10**6), st.floats(0.3, 2.5))
def test_the_mask_stays_on_the_photo(height, width, crop, seed, scale):
    photo, mask = painted(height, width, seed)
    rng = np.random.default_rng(seed)
    cropped, labels = augment(photo, mask, rng, crop=crop, scales=(scale, scale))
    assert cropped.shape == (crop, crop, 3)
    assert labels.shape == (crop, crop)
    assert set(np.unique(labels)) <= {*LABELS, 255}
    inside = labels != 255
    assert (cropped[~inside] == PADDING).all()
    shown = cropped.argmax(axis=2)
    pure = inside & (cropped.max(axis=2) > 200)
    assert (LABELS[shown[pure]] == labels[pure]).all()
    # Only pixels along the blocks' edges are blends.
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        differs = np.diff(labels.astype(int), axis=axis) != 0
        ahead = np.pad(differs, [(0, int(axis == k)) for k in range(2)])
        behind = np.pad(differs, [(int(axis == k), 0) for k in range(2)])
        edge |= ahead | behind
    far = inside & ~edge
    assert (LABELS[shown[far]] == labels[far]).mean() > 0.97 if far.any() else True


@given(SIZES, SIZES, st.integers(0, 10**6))
def test_the_same_random_numbers_give_the_same_crop(height, width, seed):
    photo, mask = painted(height, width, seed)
    first, second = (augment(photo, mask, np.random.default_rng(seed), crop=32) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_without_scale_and_room_to_crop_it_is_the_photo_or_its_mirror_image():
    photo, mask = painted(40, 40, 1)
    mirrored = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cropped, labels = augment(photo, mask, rng, crop=40, scales=(1.0, 1.0))
        flipped = not np.array_equal(cropped, photo)
        assert np.array_equal(cropped, photo[:, ::-1] if flipped else photo)
        assert np.array_equal(labels, mask[:, ::-1] if flipped else mask)
        mirrored += flipped
    assert 8 < mirrored < 32


def test_crops_come_from_everywhere_and_small_photos_are_padded_all_around():
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
    photo = np.zeros((8, 8, 3), np.uint8)
    corners, places = set(), set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        corners.add(int(augment(photo, mask, rng, crop=4, scales=(1.0, 1.0))[1].min()))
        rng = np.random.default_rng(seed)
        padded = augment(photo, mask, rng, crop=11, scales=(1.0, 1.0))[1]
        assert sorted(padded[padded != 255]) == list(range(64))
        places.add(tuple(np.argwhere(padded == 0)[0]))
    assert corners == {8 * row + column for row in range(5) for column in range(5)}
    assert len(places) > 16


@pytest.mark.parametrize("scales", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0,)])
def test_bad_scales_are_refused(scales):
    photo, mask = painted(8, 8, 0)
    with pytest.raises(ValueError, match="scales must be"):
        augment(photo, mask, np.random.default_rng(0), crop=4, scales=scales)


def test_a_mask_of_another_size_is_refused():
    photo, mask = painted(8, 8, 0)
    with pytest.raises(ValueError, match=r"got \(8, 8, 3\) and \(7, 8\)"):
        augment(photo, mask[1:], np.random.default_rng(0), crop=4)
