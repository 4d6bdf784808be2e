"""Photos to probabilities: against plain formulas, and what scales, mirrors and windows keep."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vpl_plugin.clip import preprocess
from vpl_plugin.segmentation import inference
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.inference import most_likely, photo_views, probabilities, segment

PATCH = 16


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def local_segmenter(fine: int = 2) -> SimpleNamespace:
    """Maps that depend on their own patch alone: windows must not change them."""

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[2] % PATCH == pixels.shape[3] % PATCH == 0
        return 3 * F.avg_pool2d(pixels, PATCH // fine)

    return SimpleNamespace(
        model=SimpleNamespace(patch_size=PATCH, preprocess=preprocess),
        decoder=SimpleNamespace(settings={"upsampling": fine}),
        classes=("a", "b"),
        logits=logits,
    )


def test_a_photo_seen_once_is_the_softmax_of_the_resized_maps(segmenter: Segmenter) -> None:
    picture = photo(70, 50)
    maps = segmenter.logits(segmenter.model.preprocess(picture)[None])
    expected = F.interpolate(maps, size=(70, 50), mode="bilinear").softmax(dim=1)[0]
    found = segment(segmenter, picture)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(segment(segmenter, Image.fromarray(picture)), found)


def test_scales_are_averaged(segmenter: Segmenter) -> None:
    picture = photo(60, 80)
    each = [segment(segmenter, picture, scales=[scale]) for scale in (0.5, 1.0, 1.5)]
    together = segment(segmenter, picture, scales=(0.5, 1.0, 1.5))
    torch.testing.assert_close(together, torch.stack(each).mean(dim=0), rtol=0, atol=1e-6)
    assert not torch.allclose(each[0], each[1], atol=1e-3)


def test_with_flip_a_mirrored_photo_gives_the_mirrored_result(segmenter: Segmenter) -> None:
    # Whole patches, so that resizing treats left and right alike.
    picture = photo(64, 96)
    plain = segment(segmenter, picture, flip=True)
    mirrored = segment(segmenter, np.ascontiguousarray(picture[:, ::-1]), flip=True)
    torch.testing.assert_close(mirrored, plain.flip(-1), rtol=0, atol=1e-5)
    assert not torch.allclose(plain, segment(segmenter, picture), atol=1e-3)


@settings(max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    window=st.integers(1, 120),
    overlap=st.floats(0, 0.9),
    flip=st.booleans(),
    batch_size=st.integers(1, 5),
)
def test_windows_leave_no_seam(
    height: int, width: int, window: int, overlap: float, flip: bool, batch_size: int
) -> None:
    picture, local = photo(height, width), local_segmenter()
    whole = segment(local, picture, flip=flip)
    cut = segment(local, picture, window=window, overlap=overlap, flip=flip, batch_size=batch_size)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)


def test_the_encoder_sees_no_more_than_windows_in_batches(segmenter: Segmenter) -> None:
    local, seen = local_segmenter(), []
    genuine = local.logits
    local.logits = lambda pixels: seen.append(tuple(pixels.shape)) or genuine(pixels)
    segment(local, photo(300, 500), window=100, batch_size=3, flip=True)
    assert {shape[2:] for shape in seen} == {(112, 112)}
    assert max(shape[0] for shape in seen) == 3


@pytest.mark.parametrize(
    "full", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory")], ids=["cpu", "cuda"]
)
def test_windows_that_do_not_fit_together_go_one_by_one(full: Exception) -> None:
    local, picture = local_segmenter(), photo(300, 500)
    whole = segment(local, picture, window=100, batch_size=3, flip=True)
    genuine = local.logits

    def room_for(most: int) -> None:
        def logits(pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > most:
                raise full
            return genuine(pixels)

        local.logits = logits

    room_for(1)
    torch.testing.assert_close(segment(local, picture, window=100, batch_size=3, flip=True), whole)
    room_for(0)
    with pytest.raises(type(full)):
        segment(local, picture, window=100, batch_size=3)


def test_neighbouring_windows_overlap_by_the_share_asked_for() -> None:
    for length in range(8, 60):
        starts = inference._starts(length, 8, 0.5)
        assert starts[0] == 0
        assert starts[-1] == length - 8
        assert max(np.diff(starts), default=0) <= 4


def test_a_window_larger_than_the_photo_changes_nothing(segmenter: Segmenter) -> None:
    picture = photo(70, 50)
    torch.testing.assert_close(
        segment(segmenter, picture, window=500), segment(segmenter, picture), rtol=0, atol=1e-5
    )


def test_known_classes_are_the_only_ones(segmenter: Segmenter) -> None:
    picture = photo(48, 64)
    free = segment(segmenter, picture)
    known = segment(segmenter, picture, classes=[2])
    assert not known[[1, 2]].any()
    expected = free[[0, 3]] / free[[0, 3]].sum(dim=0)
    torch.testing.assert_close(known[[0, 3]], expected, rtol=0, atol=1e-5)
    assert not segment(segmenter, picture, classes=[])[1:].any()


def test_labels_are_those_of_the_likeliest_class_in_bands_too(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = photo_views(segmenter, photo(61, 83), scales=(0.7, 1.0), flip=True)
    whole = probabilities(views)
    torch.testing.assert_close(whole.sum(dim=0), torch.ones(61, 83))
    monkeypatch.setattr(inference, "_BAND", 4 * 83 * 7)
    torch.testing.assert_close(probabilities(views), whole)
    labels = most_likely(views)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, whole.argmax(dim=0).numpy())
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales"),
        ({"scales": [0.0]}, "scales"),
        ({"window": 0}, "window"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch_size": 0}, "batch_size"),
        ({"classes": [3]}, r"classes must lie in \[0, 2\]; got 3"),
    ],
)
def test_settings_out_of_range(
    segmenter: Segmenter, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segment(segmenter, photo(20, 20), **options)


def test_a_photo_that_is_none(segmenter: Segmenter) -> None:
    with pytest.raises(TypeError, match="uint8"):
        segment(segmenter, np.zeros((20, 20, 3)))
    with pytest.raises(ValueError, match=r"\(20, 20\)"):
        segment(segmenter, np.zeros((20, 20), np.uint8))
