from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.localization import clip_es_photo, dense_crf


def two_halves(height=24, width=32):
    """A photo with one vertical edge, and a guess of it that is two columns off and noisy."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, width // 2 :] = 200
    right = np.full((height, width), 0.3, np.float32)
    right[:, width // 2 + 2 :] = 0.7
    right += np.random.default_rng(0).uniform(-0.15, 0.15, right.shape).astype(np.float32)
    return photo, np.stack([1 - right, right])


def test_follows_the_edge_of_the_photo():
    pytest.importorskip("pydensecrf")
    photo, probabilities = two_halves()
    sharpened = dense_crf(photo, probabilities)
    assert sharpened.dtype == np.float32
    np.testing.assert_allclose(sharpened.sum(0), 1, atol=1e-5)
    edge = np.arange(32) >= 16
    assert (sharpened.argmax(0) == edge).all()
    assert (probabilities.argmax(0) != edge).any()


def test_settings_reach_the_field():
    pytest.importorskip("pydensecrf")
    photo, probabilities = two_halves()
    default = dense_crf(photo, probabilities)
    for name in (
        "iterations",
        "gaussian_sxy",
        "gaussian_compat",
        "bilateral_sxy",
        "bilateral_srgb",
        "bilateral_compat",
    ):
        assert not np.array_equal(default, dense_crf(photo, probabilities, **{name: 2})), name


def test_read_only_and_flipped_photos_and_half_precision_are_fine():
    pytest.importorskip("pydensecrf")
    photo, probabilities = two_halves()
    photo.flags.writeable = False
    plain = dense_crf(photo, probabilities)
    np.testing.assert_array_equal(dense_crf(photo[..., ::-1], probabilities), plain)
    half = dense_crf(photo, probabilities.astype(np.float16))
    np.testing.assert_allclose(half, plain, atol=1e-2)


@given(seed=st.integers(0, 2**32 - 1))
def test_clip_es_photo_wraps_around(seed):
    photo = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    result = clip_es_photo(photo)
    for channel, mean in enumerate((104.008, 116.669, 122.675)):
        shifted = np.trunc(photo[..., 2 - channel].astype(float) - mean)
        np.testing.assert_array_equal(result[..., channel], shifted % 256)


def test_missing_binding_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError, match=r'pip install "vpl_plugin\[crf\]".*C\+\+.*3\.13'):
        dense_crf(*two_halves())


def test_bad_input():
    photo, probabilities = two_halves()
    with pytest.raises(TypeError, match="photo must be a uint8 array"):
        dense_crf(photo.astype(np.float32), probabilities)
    with pytest.raises(ValueError, match=r"photo must have shape \(H, W, 3\)"):
        dense_crf(photo[..., 0], probabilities)
    with pytest.raises(ValueError, match=r"\(C, 24, 32\).*got \(2, 24, 31\)"):
        dense_crf(photo, probabilities[..., :-1])
    with pytest.raises(ValueError, match="C >= 2"):
        dense_crf(photo, probabilities[:1])
    with pytest.raises(TypeError, match="floating-point"):
        dense_crf(photo, probabilities.astype(int))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        dense_crf(photo, probabilities * 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        dense_crf(photo, probabilities * np.float32(np.nan))
    with pytest.raises(ValueError, match="iterations"):
        dense_crf(photo, probabilities, iterations=0)
    with pytest.raises(ValueError, match="bilateral_srgb"):
        dense_crf(photo, probabilities, bilateral_srgb=0)
