"""CPAL's parts on tensors: against literal loops, seeds, bounds, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vpl_plugin.adapters.clip_cpal import (
    Adaptation,
    Context,
    Example,
    SupportBank,
    adapt_prototypes,
    align_features,
    classifier_cams,
    context_prototypes,
    instance_prototypes,
    prototype_aware_cam,
    read_context,
    soft_positives,
    write_context,
)
from vpl_plugin.adapters.clip_cpal.self_supervision import step_losses
from vpl_plugin.prototypes import Prototypes


def units(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, columns, generator=generator), dim=1)


# Instances


@given(st.integers(0, 1000), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_an_instance_is_the_mean_where_its_cam_exceeds_the_threshold(
    seed: int, threshold: float
) -> None:
    features = units(6, 4, seed)
    cams = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(seed))
    found = instance_prototypes(features, cams, threshold)
    for row, cam in zip(found, cams.flatten(1).tolist(), strict=True):
        inside = [x for x, value in zip(features, cam, strict=True) if value > threshold]
        inside = inside or [features[cam.index(max(cam))]]
        torch.testing.assert_close(row, torch.stack(inside).mean(0))


def test_an_empty_cam_still_gives_an_instance() -> None:
    features = units(6, 4)
    found = instance_prototypes(features, torch.zeros(1, 2, 3))
    torch.testing.assert_close(found, features.mean(0, keepdim=True))


# Alignment


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_full_alignment_forgets_where_the_photo_lies(seed: int) -> None:
    features, bank = units(7, 5, seed), units(1, 5, seed + 1)[0]
    offset = torch.randn(5, generator=torch.Generator().manual_seed(seed))
    here, there = (align_features(x, x.mean(0), bank, 1.0) for x in (features, features + offset))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        align_features(features, features.mean(0), bank, 0.0), F.normalize(features - bank, dim=1)
    )


# The bank


def filled(names: list[str], capacity: int = 3, seed: int = 0) -> SupportBank:
    bank = SupportBank(2, capacity, seed)
    for name in names:
        vector = torch.full((1, 4), float(int(name)))
        bank.add(name, [int(name) % 2], vector)
    return bank


@given(st.permutations([str(number) for number in range(12)]), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_the_bank_does_not_depend_on_order_or_on_who_filled_it(names: list[str], cut: int) -> None:
    expected = filled(sorted(names))
    merged = filled(names[:cut])
    merged.merge(filled(names[cut:]))
    for bank in (filled(names), merged):
        for index in range(2):
            assert torch.equal(bank.vectors(index), expected.vectors(index))
            assert len(bank.vectors(index)) == 3


def test_the_sample_of_the_bank_is_uniform_and_follows_the_seed() -> None:
    names = [str(number) for number in range(0, 40, 2)]
    kept = torch.stack([filled(names, 5, seed).vectors(0)[:, 0] for seed in range(400)])
    counts = torch.bincount(kept.long().flatten(), minlength=40)[::2].double()
    # 400 draws of 5 among 20: each 100 times, give or take a binomial's spread.
    assert counts.sum() == 2000
    assert float((counts - 100).abs().max()) < 5 * math.sqrt(400 * 0.25 * 0.75)
    assert not torch.equal(kept[0], kept[1])


def test_the_bank_refuses_what_does_not_fit() -> None:
    bank = SupportBank(2)
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 1\]; got 2 in 'a'"):
        bank.add("a", [2], torch.ones(1, 4))
    with pytest.raises(ValueError, match="2 classes"):
        bank.add("a", [0, 1], torch.ones(1, 4))
    with pytest.raises(ValueError, match="seed"):
        bank.merge(SupportBank(2, seed=1))
    assert len(bank.vectors(0)) == 0


# k-means


def within(vectors: Tensor, centres: Tensor) -> float:
    return float((1 - (F.normalize(vectors, dim=1) @ centres.T).amax(dim=1)).sum())


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_centres_are_the_directions_of_their_clusters(seed: int, count: int, k: int) -> None:
    vectors = units(count, 3, seed) * 2.5
    centres = context_prototypes(vectors, k, seed=seed)
    assert centres.shape == (min(k, count), 3)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(len(centres)))
    if count > k:
        nearest = (F.normalize(vectors, dim=1) @ centres.T).argmax(dim=1)
        for index in nearest.unique().tolist():
            mean = F.normalize(F.normalize(vectors[nearest == index], dim=1).sum(0), dim=0)
            torch.testing.assert_close(centres[index], mean, rtol=0, atol=1e-4)


def test_clusters_that_are_there_are_found() -> None:
    truth = units(5, 16, seed=1)
    vectors = (truth[:, None] + 0.05 * units(200, 16, seed=2).view(5, 40, 16)).flatten(0, 1)
    for seed in range(10):
        centres = context_prototypes(vectors, 5, seed=seed)
        assert float((centres @ truth.T).amax(dim=0).min()) > 0.98


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_k_means_is_deterministic_in_chunks_of_any_size(chunk_size: int) -> None:
    vectors = units(90, 8)
    one, two = (context_prototypes(vectors, 6, chunk_size=chunk_size) for _ in range(2))
    assert torch.equal(one, two)
    torch.testing.assert_close(one, context_prototypes(vectors, 6), rtol=0, atol=1e-5)
    assert within(vectors, one) < within(vectors, F.normalize(vectors[:6], dim=1))


def test_copies_of_one_vector_make_copies_of_one_prototype() -> None:
    vectors = units(1, 4).expand(9, -1)
    centres = context_prototypes(vectors, 3)
    torch.testing.assert_close(centres, vectors[:3])


# Positives and the map


def test_positiveness_prefers_the_nearest_and_leaves_the_rest_out() -> None:
    instances, context = units(4, 6, 1), units(9, 6, 2)
    weights = soft_positives(instances, context, top_k=3, temperature=0.2)
    for row, instance in zip(weights, instances, strict=True):
        cosines = context @ instance
        kept = sorted(range(9), key=lambda m: -float(cosines[m]))[:3]
        expected = torch.zeros(9)
        expected[kept] = (cosines[kept] / 0.2).softmax(0)
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(soft_positives(instances, context, top_k=50).sum(1), torch.ones(4))


def test_the_map_is_the_weighted_mean_cosine_without_its_negative_part() -> None:
    features, context = units(20, 6, 3), units(4, 6, 4)
    weights = torch.tensor([0.5, 0.5, 0.0, 0.0])
    expected = [
        max(0.0, sum(float(w * (x @ c)) for w, c in zip(weights, context, strict=True)))
        for x in features
    ]
    found = prototype_aware_cam(features, context, weights)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert float(found.max()) <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: instance_prototypes(units(6, 4), torch.rand(2, 2, 2)), "h \\* w = 6"),
        (lambda: instance_prototypes(units(6, 4), torch.rand(1, 2, 3), 1.5), "threshold"),
        (lambda: align_features(units(6, 4), torch.zeros(3), torch.zeros(4), 1.0), "photo_mean"),
        (lambda: align_features(units(6, 4), torch.zeros(4), torch.zeros(4), 2.0), "alignment"),
        (lambda: context_prototypes(torch.zeros(3, 4), 2), "row 0 is all zeros"),
        (lambda: context_prototypes(units(3, 4), 0), "clusters"),
        (lambda: soft_positives(units(1, 4), units(3, 5)), "same number of columns"),
        (lambda: soft_positives(units(1, 4), units(3, 4), 0), "top_k"),
        (lambda: soft_positives(units(1, 4), units(3, 4), 1, 0.0), "temperature"),
        (lambda: prototype_aware_cam(units(2, 4), units(3, 4), torch.ones(2)), "positiveness"),
        (lambda: SupportBank(2, capacity=0), "capacity"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


# The self-supervised step


def test_the_classifier_cam_is_gradcam_at_the_projected_features() -> None:
    features, prototypes = units(9, 6, 5).double(), units(7, 6, 6).double()
    classes, tau = [2, 0], 0.3
    leaf = features.clone().requires_grad_()
    embedding = F.normalize(leaf.mean(0), dim=0)
    shown = prototypes[[*classes, 4, 5, 6]]
    probabilities = (shown @ embedding / tau).softmax(0)
    expected = []
    for k in range(2):
        (gradient,) = torch.autograd.grad(probabilities[k], leaf, retain_graph=True)
        cam = torch.relu(features @ gradient.mean(0))
        expected.append(cam / cam.max())
    found = classifier_cams(
        features[None],
        features.mean(0)[None],
        [classes],
        Prototypes(prototypes, tuple("abcd"), tau),
    )
    torch.testing.assert_close(found[0], torch.stack(expected), rtol=0, atol=1e-5)


def uneven(seed: int, count: int) -> list[Example]:
    """Photos of one to three classes and three to nine patches."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        patches, classes = (
            int(torch.randint(*ends, (), generator=generator)) for ends in ((3, 10), (1, 4))
        )
        # Unit rows to double precision, as the losses make them.
        features = F.normalize(units(patches, 6, 100 * seed + number).double(), dim=1)
        present = torch.randperm(4, generator=generator)[:classes].tolist()
        targets = torch.rand(classes, patches, generator=generator, dtype=torch.float64)
        made.append(Example(features, features.mean(0), tuple(present), targets))
    return made


@given(st.integers(0, 1000), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_losses_of_a_step_are_those_of_its_photos_one_by_one(seed: int, count: int) -> None:
    """Values and gradients, against the formulas for one photo written out."""
    photos = uneven(seed, count)
    W = units(7, 6, seed).double().requires_grad_()
    found = step_losses(photos, Prototypes(W, tuple("abcd"), 0.2))
    expected = []
    for photo in photos:
        rows = F.normalize(W, dim=1)
        e = F.normalize(photo.photo_mean, dim=0)
        logits = rows @ e / 0.2
        against = logits[:4] - logits[4:].logsumexp(0)
        present = torch.zeros(4).double()
        present[list(photo.classes)] = 1
        shown = [*photo.classes, 4, 5, 6]
        mean = logits[shown].softmax(0) @ rows[shown]
        distance = torch.zeros(()).double()
        for index, target in zip(photo.classes, photo.targets, strict=True):
            direction = rows[index] - mean
            cam = (photo.features @ (direction - (direction @ e) * e)).relu()
            distance = distance + (cam / (cam.max() + 1e-7) - target).abs().sum()
        expected.append(
            torch.stack(
                [
                    F.binary_cross_entropy_with_logits(against, present),
                    distance / photo.targets.numel(),
                ]
            )
        )
    torch.testing.assert_close(torch.stack(found, dim=1), torch.stack(expected))
    together, one_by_one = torch.stack(found).sum(1), torch.stack(expected).sum(0)
    gradients = [torch.autograd.grad(ce + 3 * l1, W)[0] for ce, l1 in (together, one_by_one)]
    torch.testing.assert_close(*gradients)


def test_features_of_half_precision_are_unit_rows_again() -> None:
    photos = uneven(0, 3)
    rounded = [photo._replace(features=photo.features.half()) for photo in photos]
    prototypes = Prototypes(units(7, 6), tuple("abcd"), 0.2)
    exact, found = (step_losses(given, prototypes) for given in (photos, rounded))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def examples(count: int = 6) -> list[Example]:
    made = []
    for number in range(count):
        features = units(12, 6, number)
        target = torch.rand(1, 12, generator=torch.Generator().manual_seed(number))
        made.append(Example(features, features.mean(0), (number % 2,), target))
    return made


START = Prototypes(units(5, 6, 99), ("a", "b"), 0.1)


def adapted(**options: float) -> Adaptation:
    return adapt_prototypes(examples(), START, **options)


def test_training_lowers_both_losses_and_is_deterministic() -> None:
    one, two = (adapted(epochs=30) for _ in range(2))
    assert torch.equal(one.prototypes.rows, two.prototypes.rows)
    torch.testing.assert_close(one.prototypes.rows.norm(dim=1), torch.ones(5))
    total = [a + b for a, b in zip(one.classification, one.consistency, strict=True)]
    assert len(total) == 30
    assert total[-1] < total[0]
    alone = adapted(epochs=30, weight=0.0)
    assert alone.classification[-1] < alone.classification[0]
    assert one.consistency[-1] < alone.consistency[-1]


def test_no_epoch_leaves_the_prototypes_as_they_are() -> None:
    made = adapted(epochs=0)
    torch.testing.assert_close(made.prototypes.rows, START.rows)
    assert (made.prototypes.class_names, made.prototypes.temperature) == (("a", "b"), 0.1)
    assert (made.classification, made.consistency) == ([], [])


def test_training_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="examples is empty"):
        adapt_prototypes([], START)
    with pytest.raises(ValueError, match="prototypes must have a temperature"):
        adapt_prototypes(examples(), replace(START, temperature=None))
    with pytest.raises(ValueError, match="learning_rate"):
        adapted(learning_rate=0.0)
    with pytest.raises(ValueError, match="weight"):
        adapted(weight=-1.0)


# The context


def test_maps_of_a_class_with_and_without_context(tmp_path: Path) -> None:
    features = units(12, 6, 1)
    bank = SupportBank(3)
    bank.add("a", [0], features[:1])
    context = Context.of_bank(bank, torch.zeros(6), 3, clusters=2)
    assert context.counts.tolist() == [1, 0, 0]
    write_context(tmp_path / "context.safetensors", context)
    again = read_context(tmp_path / "context.safetensors")
    for a, b in zip(context, again, strict=True):
        assert torch.equal(a, b)
    maps = again.maps(features, torch.zeros(6), (0, 2), features[[3, 5]], alignment=0.0, top_k=3)
    assert maps.shape == (2, 12)
    # The only context prototype of class 0 is the first feature; class 2 has its own instance.
    assert maps.argmax(dim=1).tolist() == [0, 5]
    torch.testing.assert_close(maps.amax(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    assert float(maps.min()) == 0


def test_a_broken_context_is_named(tmp_path: Path) -> None:
    file = tmp_path / "context.safetensors"
    with pytest.raises(FileNotFoundError, match="no context prototypes"):
        read_context(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no readable file"):
        read_context(file)
