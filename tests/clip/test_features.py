"""Many photos: order, equality with one photo at a time, memory, broken files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.clip import BrokenPhotoError, dense_features, pixel_batches

SIZES = [(20, 30), (32, 32), (17, 25), (40, 20), (48, 32), (48, 30), (16, 16)]


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_give_what_single_photos_give(mini, photos, batch_size):
    together = list(dense_features(mini, photos, batch_size))
    assert len(together) == len(photos)
    for photo, features in zip(photos, together, strict=True):
        alone = mini.dense_features(mini.preprocess(photo)[None])[0]
        torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-4)


def test_only_consecutive_photos_of_one_size_share_a_batch(mini, photos):
    shapes = [tuple(batch.shape) for batch in pixel_batches(mini, photos, batch_size=2)]
    assert shapes == [
        (2, 3, 32, 32),
        (1, 3, 32, 32),
        (2, 3, 48, 32),
        (1, 3, 48, 32),
        (1, 3, 16, 16),
    ]


def test_photos_are_taken_as_they_are_needed(mini):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield np.zeros((16, 16, 3), np.uint8)

    batches = pixel_batches(mini, endless(), batch_size=3)
    assert not taken
    assert next(batches).shape == (3, 3, 16, 16)
    assert len(taken) <= 4


def test_paths_arrays_and_images_mix(mini, tmp_path, photos):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    rows = list(dense_features(mini, [path, str(path), Image.open(path), photos[0]]))
    for row in rows[1:]:
        torch.testing.assert_close(row, rows[0])


def test_a_broken_photo_stops_at_its_place(mini, tmp_path, photos):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photo")
    batches = pixel_batches(mini, [photos[0], broken], batch_size=1)
    with pytest.raises(BrokenPhotoError, match=r"broken\.jpg"):
        list(batches)


def test_no_photos_give_no_features(mini):
    assert list(dense_features(mini, [])) == []


def test_a_bad_batch_size_is_refused_at_once(mini):
    for function in (dense_features, pixel_batches):
        with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
            function(mini, [], batch_size=0)
