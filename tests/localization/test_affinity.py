from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.localization import box_masks, mean_attention, refine_cams, transition_matrix


def make_attention(patches, seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(*batch, patches, patches, generator=generator, dtype=torch.float64)
    return (2 * scores).softmax(-1)


def make_cams(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(shape, generator=generator, dtype=torch.float64) ** 3
    return cams / cams.amax((-2, -1), keepdim=True)


def literal_transition(attention, rounds):
    matrix = attention.clone()
    for _ in range(rounds):
        matrix = matrix / matrix.sum(0, keepdim=True)
        matrix = matrix / matrix.sum(1, keepdim=True)
    return (matrix + matrix.T) / 2


def box_mask_by_contours(cam, threshold):
    """The published rule in OpenCV's terms: threshold, contours, bounding rectangles."""
    height, width = cam.shape
    grey = (cam * 255).astype(np.uint8)
    _, binary = cv2.threshold(grey, int(threshold * grey.max()), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(cam.shape, bool)
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        mask[y : min(y + h, height - 1), x : min(x + w, width - 1)] = True
    return mask


@given(seed=st.integers(0, 10**6), patches=st.integers(2, 12), rounds=st.integers(1, 5))
def test_scaling_vectors_equal_dividing_the_matrix(seed, patches, rounds):
    attention = make_attention(patches, seed)
    matrix = transition_matrix(attention, rounds)
    torch.testing.assert_close(matrix, literal_transition(attention, rounds))
    assert torch.equal(matrix, matrix.T)


def test_many_rounds_are_doubly_stochastic():
    matrix = transition_matrix(make_attention(9, 0), rounds=200)
    torch.testing.assert_close(matrix.sum(0), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(matrix.sum(1), torch.ones(9, dtype=torch.float64))


def test_half_precision_attention_is_computed_in_float32():
    attention = make_attention(9, 0).bfloat16()
    matrix = transition_matrix(attention)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix, transition_matrix(attention.float()))


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    threshold=st.sampled_from([0.2, 0.4, 0.41, 0.7]),
)
def test_box_masks_equal_contours(seed, height, width, threshold):
    cams = make_cams((3, height, width), seed).float()
    masks = box_masks(cams, threshold)
    for cam, mask in zip(cams.numpy(), masks.numpy(), strict=True):
        np.testing.assert_array_equal(mask, box_mask_by_contours(cam, threshold))


def test_box_masks_equal_contours_on_blobs_with_holes_and_diagonals():
    drawn = [
        "1110000100",
        "1010000010",
        "1110000000",
        "0000000000",
        "1111100000",
        "1000100011",
        "1010100011",
        "1000100000",
        "1111100000",
    ]
    cam = np.array([[int(c) for c in row] for row in drawn], np.float32)
    mask = box_masks(torch.from_numpy(cam)[None], 0.4)[0].numpy()
    np.testing.assert_array_equal(mask, box_mask_by_contours(cam, 0.4))
    # The diagonal pair is one region, and its box covers the corners between.
    assert mask[0:2, 7:9].all()
    # The boxes at the right and bottom edges stop a pixel short.
    assert not mask[:, -1].any()
    assert not mask[-1].any()


def test_box_masks_keep_maps_apart_and_shapes():
    cams = make_cams((2, 3, 5, 6), 1)
    masks = box_masks(cams)
    assert masks.shape == cams.shape
    assert masks.dtype == torch.bool
    for photo in range(2):
        for k in range(3):
            assert torch.equal(masks[photo, k], box_masks(cams[photo, k : k + 1])[0])


@given(seed=st.integers(0, 10**6), height=st.integers(2, 5), width=st.integers(2, 5))
def test_refining_equals_the_squared_masked_matrix(seed, height, width):
    patches = height * width
    attention = make_attention(patches, seed)
    cams = make_cams((3, height, width), seed)
    masks = box_masks(cams)
    refined = refine_cams(cams, attention)
    matrix = literal_transition(attention, 3)
    squared = matrix @ matrix
    for cam, mask, result in zip(cams, masks, refined, strict=True):
        spread = (squared * mask.reshape(1, -1)) @ cam.reshape(-1, 1)
        spread = spread.view(height, width)
        spread = spread - spread.min()
        spread = spread / (1e-7 + spread.max())
        torch.testing.assert_close(result, spread, rtol=0, atol=1e-9)
    assert refined.min() >= 0
    assert refined.max() <= 1


def test_nearly_uniform_attention_does_not_magnify_rounding():
    generator = torch.Generator().manual_seed(0)
    scores = 1e-2 * torch.randn(20, 400, 400, generator=generator, dtype=torch.float64)
    attention = scores.softmax(-1).mean(0).float()
    cams = make_cams((2, 20, 20), 0).float()
    exact = refine_cams(cams.double(), attention.double())
    torch.testing.assert_close(refine_cams(cams, attention).double(), exact, rtol=0, atol=1e-6)


def test_batch_equals_photos_one_by_one_and_padding_stays_zero():
    cams, attention = make_cams((2, 3, 4, 5), 0), make_attention(20, 0, (2,))
    cams[1, 2] = 0
    refined = refine_cams(cams, attention)
    for photo in range(2):
        torch.testing.assert_close(refined[photo], refine_cams(cams[photo], attention[photo]))
    assert not refined[1, 2].any()


@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)))
def test_classes_do_not_mix(seed, order):
    cams, attention = make_cams((4, 3, 4), seed), make_attention(12, seed)
    order = list(order)
    torch.testing.assert_close(
        refine_cams(cams[order], attention), refine_cams(cams, attention)[order]
    )


@pytest.mark.parametrize("blocks", [0, 1, 7])
def test_mean_attention_counts_the_last_block_once(blocks):
    earlier, last = make_attention(4, 0, (2, blocks)), make_attention(4, 1, (2,))
    expected = torch.cat([earlier, last[:, None]], 1).mean(1)
    torch.testing.assert_close(mean_attention(earlier, last), expected)


def test_bad_input():
    cams, attention = make_cams((2, 3, 4), 0), make_attention(12, 0)
    with pytest.raises(ValueError, match=r"attention must have shape \(12, 12\)"):
        refine_cams(cams, attention[:6, :6])
    with pytest.raises(ValueError, match=r"attention must have shape \(12, 12\)"):
        refine_cams(cams, attention[None])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got the range \[0.*, 2\]"):
        refine_cams(cams * 2, attention)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        box_masks(torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., K, h, w\)"):
        box_masks(cams[0])
    with pytest.raises(TypeError, match="floating point"):
        box_masks(cams.long())
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        box_masks(cams.numpy())
    with pytest.raises(ValueError, match="threshold"):
        box_masks(cams, 1.5)
    with pytest.raises(ValueError, match="rounds"):
        transition_matrix(attention, 0)
    with pytest.raises(ValueError, match=r"\(\.\.\., P, P\)"):
        transition_matrix(attention[:, :5])
    with pytest.raises(ValueError, match="same photos"):
        mean_attention(attention[None, None], torch.cat([attention[None]] * 2))
    with pytest.raises(ValueError, match="earlier must have shape"):
        mean_attention(attention[None], attention[None])
