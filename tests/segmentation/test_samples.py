"""Samples of a training: what of a crop is the photo."""

from __future__ import annotations

import pytest
import torch

from vpl_plugin.segmentation.augmentation import PADDING
from vpl_plugin.segmentation.feature_cache import FeatureCache
from vpl_plugin.segmentation.sampler import Draw
from vpl_plugin.segmentation.samples import CachedSamples, PhotoSamples


def samples_of(examples, model, cache_folder, **options):
    if cache_folder is None:
        options["scales"] = (0.3, 1.0)
        return PhotoSamples(examples, 3, crop=96, patch_size=16, seed=0, **options)
    cache = FeatureCache(cache_folder, model, (0, 1), (0.5, 1.0))
    cache.fill(examples, progress=False)
    return CachedSamples(examples, 3, cache, crop=96, patch_size=16, seed=0, **options)


@pytest.mark.parametrize("cached", [False, True])
def test_samples_tell_padding_from_the_photo(tiny, data, mini, tmp_path, cached):
    examples = tiny.examples_of(data)
    samples = samples_of(examples, mini, tmp_path if cached else None)
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


@pytest.mark.parametrize("cached", [False, True])
def test_the_classes_that_count_are_the_mask_s_or_the_photo_s(tiny, data, mini, tmp_path, cached):
    """A photo of class 0 and 1, whose pseudo-mask names class 0 alone."""
    example = tiny.examples_of(data)[0]._replace(classes=(0, 1))
    folder = tmp_path if cached else None
    by_mask = samples_of([example], mini, folder)
    by_photo = samples_of([example], mini, folder, rsc_labels="photo")
    for slot in range(10):
        draw = Draw(0, slot, 0)
        shown = bool((by_mask[draw].mask == 1).any())
        assert by_mask[draw].labels.tolist() == [shown, False, False]
        assert by_photo[draw].labels.tolist() == [True, True, False]
        assert torch.equal(by_mask[draw].source, by_photo[draw].source)
