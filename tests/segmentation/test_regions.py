"""Region embeddings under true masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.regions import region_embeddings


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def test_regions_are_means_over_their_cells(segmenter: Segmenter, photo: np.ndarray) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 16:32], mask[:, 32:], mask[:8] = 3, 1, 255
    embeddings, classes = region_embeddings(segmenter, photo, mask)
    maps = segmenter.output(segmenter.model.preprocess(photo)[None]).embeddings[0]
    # A cell of the decoder's grid is 8 pixels wide here, and the first row of cells is unknown.
    expected = torch.stack([maps[:, 1:, 4:].mean((1, 2)), maps[:, 1:, 2:4].mean((1, 2))])
    assert classes.tolist() == [0, 2]
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-4)


def test_a_photo_without_objects_has_no_region(segmenter: Segmenter, photo: np.ndarray) -> None:
    embeddings, classes = region_embeddings(segmenter, photo, np.full((48, 64), 255, np.uint8))
    assert embeddings.shape == (0, segmenter.model.embed_dim)
    assert classes.shape == (0,)


def test_masks_that_do_not_fit(segmenter: Segmenter, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"photo's size \(48, 64\); got \(48, 60\)"):
        region_embeddings(segmenter, photo, np.zeros((48, 60), np.uint8))
    with pytest.raises(ValueError, match="labels up to 3"):
        region_embeddings(segmenter, photo, np.full((48, 64), 4, np.uint8))
