from __future__ import annotations

import numpy as np
import pytest
import torch

from vpl_plugin.localization import background_score, dense_crf, pseudo_mask


def scene():
    photo = np.zeros((20, 30, 3), np.uint8)
    photo[:, 10:] = 120
    photo[:, 20:] = 240
    cams = torch.full((2, 20, 30), 0.05)
    cams[0, :, 10:20] = 0.9
    cams[1, :, 20:] = 0.8
    return photo, cams


def test_classes_background_and_order():
    photo, cams = scene()
    mask = pseudo_mask(photo, cams, [14, 3], confidence=0)
    assert mask.dtype == np.uint8
    assert np.unique(mask[:, :10]).tolist() == [0]
    assert np.unique(mask[:, 10:20]).tolist() == [15]
    assert np.unique(mask[:, 20:]).tolist() == [4]
    swapped = pseudo_mask(photo, cams.flip(0), torch.tensor([3, 14]), confidence=0)
    np.testing.assert_array_equal(mask, swapped)


def test_unsure_pixels_are_ignored_and_the_others_kept():
    photo, cams = scene()
    cams[0, 5:9, 12:18] = 0.45
    weak = {"bilateral_compat": 0.01, "gaussian_compat": 0.01}
    everything = pseudo_mask(photo, cams, [14, 3], confidence=0, **weak)
    sure = pseudo_mask(photo, cams, [14, 3], confidence=0.7, ignore_index=254, **weak)
    scores = torch.cat([background_score(cams), cams]).numpy()
    confidence = dense_crf(photo, scores, **weak).max(0)
    unsure = confidence < 0.7
    assert 0 < unsure.sum() < unsure.size
    assert (sure[unsure] == 254).all()
    np.testing.assert_array_equal(sure[~unsure], everything[~unsure])


def test_power_moves_the_background():
    photo, cams = scene()
    cams[0, :, 10:20] = 0.45
    assert (pseudo_mask(photo, cams, [14, 3], power=1, confidence=0)[:, 10:20] == 0).all()
    assert (pseudo_mask(photo, cams, [14, 3], power=4, confidence=0)[:, 10:20] == 15).all()


def test_bad_input():
    photo, cams = scene()
    with pytest.raises(ValueError, match=r"\(K, 20, 30\), that of the photo \(see resize_cams\)"):
        pseudo_mask(photo, cams[..., :-1], [14, 3])
    with pytest.raises(ValueError, match="one entry per map"):
        pseudo_mask(photo, cams, [14])
    with pytest.raises(ValueError, match=r"not the ignore_index 15; got \[14, 3\]"):
        pseudo_mask(photo, cams, [14, 3], ignore_index=15)
    with pytest.raises(ValueError, match="fits in 8 bits"):
        pseudo_mask(photo, cams, [-1, 3])
    with pytest.raises(ValueError, match="confidence"):
        pseudo_mask(photo, cams, [14, 3], confidence=95)
    with pytest.raises(ValueError, match="ignore_index"):
        pseudo_mask(photo, cams, [14, 3], ignore_index=300)
    with pytest.raises(TypeError, match="photo must be"):
        pseudo_mask(torch.from_numpy(photo), cams, [14, 3])
