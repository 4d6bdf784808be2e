"""Samples of a training: what of a crop is the photo."""

from __future__ import annotations

import pytest
import torch

from vpl_plugin.segmentation.augmentation import PADDING
from vpl_plugin.segmentation.feature_cache import FeatureCache
from vpl_plugin.segmentation.sampler import Draw
from vpl_plugin.segmentation.samples import CachedSamples, PhotoSamples


@pytest.mark.parametrize("cached", [False, True])
def test_samples_tell_padding_from_the_photo(tiny, data, mini, tmp_path, cached):
    examples = tiny.examples_of(data)
    if cached:
        cache = FeatureCache(tmp_path, mini, (0, 1), (0.5, 1.0))
        cache.fill(examples, progress=False)
        samples = CachedSamples(examples, 3, cache, crop=96, patch_size=16, seed=0)
    else:
        samples = PhotoSamples(examples, 3, crop=96, patch_size=16, scales=(0.3, 1.0), seed=0)
    some = 0
    for slot in range(20):
        sample = samples[Draw(0, slot, slot % len(examples))]
        if cached:
            inside = (sample.source != 0).any(dim=(0, 2)).view(6, 6)
        else:
            # The four pixels around each patch's middle: photos of noise are nowhere the padding.
            middles = sample.source.view(6, 16, 6, 16, 3)[:, 7:9, :, 7:9]
            inside = (middles != torch.tensor(PADDING)).any(dim=4).all(dim=3).all(dim=1)
        some += int((~inside).sum())
        assert torch.equal(sample.inside, inside)
    assert some > 0
