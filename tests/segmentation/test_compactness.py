"""Compactness against scikit-learn, literal loops, and what it must not depend on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.segmentation.compactness import compactness


def regions(seed: int, counts: tuple[int, ...] = (4, 1, 6, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((n,), 7 * k) for k, n in enumerate(counts)])
    return torch.randn(len(labels), 5, generator=generator), labels


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_literal_loops(seed: int) -> None:
    embeddings, labels = regions(seed)
    rows = embeddings.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    members = [rows[labels.numpy() == label] for label in np.unique(labels.numpy())]
    centroids = [group.mean(axis=0) for group in members]
    intra = [
        np.mean([cosine_distance(row, centre) for row in group])
        for group, centre in zip(members, centroids, strict=True)
        if len(group) > 1
    ]
    inter = [
        cosine_distance(centroids[i], centroids[j]) for i in range(len(centroids)) for j in range(i)
    ]
    found = compactness(embeddings, labels)
    assert found.intra == pytest.approx(np.mean(intra), abs=1e-9)
    assert found.inter == pytest.approx(np.mean(inter), abs=1e-9)
    assert found.ratio == pytest.approx(np.mean(intra) / np.mean(inter))
    assert (found.regions, found.classes) == (14, 4)


@pytest.mark.parametrize("seed", range(5))
def test_the_silhouette_is_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    embeddings, labels = regions(seed)
    expected = metrics.silhouette_score(embeddings.double(), labels, metric="cosine")
    assert compactness(embeddings, labels).silhouette == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 1000), shift=st.floats(-1e3, 1e3))
def test_centred_what_all_share_does_not_matter(seed: int, shift: float) -> None:
    embeddings, labels = regions(seed)
    embeddings = embeddings.double()
    found = compactness(embeddings, labels, centred=True)
    shifted = compactness(embeddings + shift, labels, centred=True)
    assert found[:4] == pytest.approx(shifted[:4], abs=1e-6)
    means = torch.stack([embeddings[labels == label].mean(0) for label in labels.unique()])
    expected = compactness(embeddings - means.mean(0), labels)
    assert found[:4] == pytest.approx(expected[:4], abs=1e-9)


@given(seed=st.integers(0, 1000))
def test_neither_order_nor_length_nor_names_matter(seed: int) -> None:
    embeddings, labels = regions(seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    lengths = torch.rand(len(labels), 1, generator=generator) + 0.1
    same = compactness((embeddings * lengths)[order], 20 - labels[order])
    assert same == pytest.approx(compactness(embeddings, labels), abs=1e-5)


def test_pulling_regions_to_their_class_is_more_compact() -> None:
    embeddings, labels = regions(0)
    centres = torch.eye(5)[labels // 7]
    figures = [
        compactness(embeddings * (1 - share) + 5 * share * centres, labels)
        for share in (0.0, 0.5, 0.9)
    ]
    for before, after in pairwise(figures):
        assert after.intra < before.intra
        assert after.ratio < before.ratio
        assert after.silhouette > before.silhouette


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 1, 1], "two classes or more"), ([0, 1, 2], "one of them twice"), ([0, 1], r"\(3,\)")],
)
def test_too_few_regions(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compactness(torch.eye(3), torch.tensor(labels))


def test_rows_of_zeros_and_labels_that_are_no_integers() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        compactness(torch.zeros(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(TypeError, match="labels must be integers"):
        compactness(torch.eye(3), torch.tensor([0.0, 0.0, 1.0]))
