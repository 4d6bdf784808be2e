"""Cached tokens: the encoder's own, whole after any interruption, and cut where the mask is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vpl_plugin.clip import open_photo
from vpl_plugin.localization import write_mask
from vpl_plugin.segmentation.examples import list_examples
from vpl_plugin.segmentation.feature_cache import FeatureCache, View
from vpl_plugin.segmentation.sampler import Draw
from vpl_plugin.segmentation.samples import CachedSamples


@pytest.fixture
def examples(tiny, data):
    return tiny.examples_of(data)[:3]


def test_holds_what_the_encoder_gives_for_the_photo_and_its_mirror_image(mini, examples, tmp_path):
    cache = FeatureCache(tmp_path, mini, (0, -1), (1.0, 0.5))
    assert len(cache.views) == 4
    cache.fill(examples, progress=False)
    photo = open_photo(examples[1].photo)
    for mirrored in (False, True):
        pixels = mini.preprocess(ImageOps.mirror(photo) if mirrored else photo)[None]
        expected = mini.block_tokens(pixels, (0, 1))[0]
        stored = cache.tokens("1", View(1.0, mirrored))
        assert stored.shape == (2, 4, 6, 192)
        assert stored.dtype == np.float16
        ours = torch.tensor(stored).float().flatten(1, 2)
        torch.testing.assert_close(ours, expected, atol=1e-2, rtol=1e-2)
    assert cache.tokens("1", View(0.5, False)).shape == (2, 2, 3, 192)


def test_a_cache_that_was_cut_short_is_filled_up_and_nothing_is_done_twice(
    mini, examples, tmp_path
):
    cache = FeatureCache(tmp_path, mini, (1,))
    cache.fill(examples, progress=False)
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
    gone = cache.file("2", View(1.0, True))
    gone.unlink()
    kept = cache.file("0", View(1.0, False))
    before = kept.stat().st_mtime_ns
    again = FeatureCache(tmp_path, mini, (1,))
    again.fill(examples, progress=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole
    assert kept.stat().st_mtime_ns == before


def test_ranks_fill_one_cache_between_them(mini, examples, tmp_path):
    for rank in range(2):
        cache = FeatureCache(tmp_path, mini, (1,), alone=False)
        cache.fill(examples, rank=rank, world=2, progress=False)
    assert all(
        cache.file(example.name, view).is_file() for example in examples for view in cache.views
    )


def test_tokens_of_other_settings_are_refused(mini, examples, tmp_path):
    FeatureCache(tmp_path, mini, (1,)).fill(examples[:1], progress=False)
    with pytest.raises(ValueError, match=r"other settings \(blocks was \[1\], is \[0, 1\]\)"):
        FeatureCache(tmp_path, mini, (0, 1))
    with pytest.raises(ValueError, match=r"scales was \[1.0\], is \[0.5\]"):
        FeatureCache(tmp_path, mini, (1,), (0.5,))
    with pytest.raises(ValueError, match="scales must be one or more numbers above 0"):
        FeatureCache(tmp_path, mini, (1,), ())


def test_a_photo_and_its_mirror_image_that_do_not_fit_together_go_one_by_one(
    mini, examples, tmp_path, monkeypatch
):
    whole, tight, none = (FeatureCache(tmp_path / name, mini, (1,)) for name in "abc")
    whole.fill(examples, progress=False)
    genuine = mini.block_tokens

    def room_for(most):
        def tokens(pixels, blocks):
            if len(pixels) > most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return genuine(pixels, blocks)

        monkeypatch.setattr(mini, "block_tokens", tokens)

    room_for(1)
    tight.fill(examples, progress=False)
    for example in examples:
        for view in whole.views:
            ours, theirs = (cache.tokens(example.name, view) for cache in (tight, whole))
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    room_for(0)
    with pytest.raises(MemoryError, match="no memory for 0 at 48 x 96 pixels: make the photo"):
        none.fill(examples, progress=False)


def test_a_broken_file_is_named(mini, examples, tmp_path):
    cache = FeatureCache(tmp_path, mini, (1,))
    cache.fill(examples[:1], progress=False)
    file = cache.file("0", cache.views[0])
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"0_1_plain\.npy is broken; delete it"):
        cache.tokens("0", cache.views[0])


def test_tokens_and_mask_are_cropped_alike(mini, tmp_path):
    """Tokens that spell out their patch's label, under both views, in crops smaller and larger."""
    blocks = np.arange(1, 31, dtype=np.uint8).reshape(5, 6)
    mask = blocks.repeat(16, 0).repeat(16, 1)
    Image.fromarray(np.zeros((80, 96, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / "a.png", mask)
    examples = list_examples({"a": tmp_path / "a.png"}, tmp_path / "masks", 30)
    cache = FeatureCache(tmp_path / "cache", mini, (0, 1))
    for view in cache.views:
        spelled = blocks[:, ::-1] if view.mirrored else blocks
        np.save(
            cache.file("a", view), np.broadcast_to(spelled[..., None], (2, 5, 6, 4)).astype("f2")
        )
    seen = set()
    for crop in (48, 112):
        samples = CachedSamples(examples, 30, cache, crop=crop, patch_size=16, seed=0)
        for iteration in range(30):
            sample = samples[Draw(iteration, 0, 0)]
            side = crop // 16
            assert sample.source.shape == (2, side * side, 4)
            spelled = sample.source[0, :, 0].reshape(side, side).repeat_interleave(16, 0)
            spelled = spelled.repeat_interleave(16, 1)
            # Where there is no photo, there is a token of zeros.
            known = sample.mask != 255
            assert torch.equal(spelled[known], sample.mask[known].half())
            assert not spelled[~known].any()
            assert known.float().mean() == 1 if crop == 48 else known.any()
            present = (sample.labels.nonzero().flatten() + 1).tolist()
            assert present == sorted(set(sample.mask[known].tolist()))
            seen.add(tuple(sample.mask[::16, ::16].flatten().tolist()))
    # 24 crops of 3 x 3 patches, and 12 places in 7 x 7.
    assert len(seen) > 20
