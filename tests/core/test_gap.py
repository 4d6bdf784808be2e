"""The modality gap: definitions by loop, invariances, and Liang et al.'s shift."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.core.constraints import unit_rows
from vpl_plugin.core.gap import centroid_gap, cosine_gap, modify_gap


def clouds(
    seed: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 6, generator=generator, dtype=dtype)
    features[:, 0] += 2
    prototypes = torch.randn(4, 6, generator=generator, dtype=dtype)
    prototypes[:, 1] += 2
    assignments = torch.randint(0, 4, (40,), generator=generator)
    assignments[torch.rand(40, generator=generator) < 0.2] = 255
    assignments[0] = 1
    return features, prototypes, assignments


@given(seed=st.integers(0, 1000))
def test_cosine_gap_is_the_loop_over_counted_pixels(seed: int) -> None:
    features, prototypes, assignments = clouds(seed)
    cosines = []
    for x, n in zip(features.tolist(), assignments.tolist(), strict=True):
        if n != 255:
            w = prototypes[n].tolist()
            dot = sum(a * b for a, b in zip(x, w, strict=True))
            cosines.append(dot / (math.hypot(*x) * math.hypot(*w)))
    expected = 1 - sum(cosines) / len(cosines)
    assert float(cosine_gap(features, prototypes, assignments)) == pytest.approx(expected)


def test_assignments_of_a_narrow_dtype_are_the_classes_they_name() -> None:
    features, _, _ = clouds(0)
    prototypes = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).double()
    assignments = torch.arange(40) * 4 + 80
    # 1004 is 236 in uint8, one of these classes.
    narrow = cosine_gap(features, prototypes, assignments.to(torch.uint8), ignore_index=1004)
    assert narrow == cosine_gap(features, prototypes, assignments, ignore_index=1004)


def test_centroid_gap_is_the_distance_of_the_means_of_unit_rows() -> None:
    features, prototypes, _ = clouds(0)
    x = [sum(c) / 40 for c in zip(*unit_rows(features).tolist(), strict=True)]
    w = [sum(c) / 4 for c in zip(*unit_rows(prototypes).tolist(), strict=True)]
    assert float(centroid_gap(features, prototypes)) == pytest.approx(math.dist(x, w))


@given(seed=st.integers(0, 1000))
def test_rotation_scale_and_order_do_not_matter(seed: int) -> None:
    features, prototypes, assignments = clouds(seed)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    order = torch.randperm(40, generator=generator)
    scale = 0.1 + torch.rand(40, 1, generator=generator, dtype=torch.float64)
    turned, turned_prototypes = (scale * features @ Q)[order], 3 * prototypes @ Q
    torch.testing.assert_close(
        cosine_gap(turned, turned_prototypes, assignments[order]),
        cosine_gap(features, prototypes, assignments),
    )
    torch.testing.assert_close(
        centroid_gap(turned, turned_prototypes), centroid_gap(features, prototypes)
    )


@given(seed=st.integers(0, 1000), chunk_size=st.integers(1, 50), shift=st.floats(-2, 2))
def test_chunk_size_does_not_matter(seed: int, chunk_size: int, shift: float) -> None:
    features, prototypes, assignments = clouds(seed)
    torch.testing.assert_close(
        cosine_gap(features, prototypes, assignments, chunk_size=chunk_size),
        cosine_gap(features, prototypes, assignments),
    )
    torch.testing.assert_close(
        centroid_gap(features, prototypes, chunk_size=chunk_size),
        centroid_gap(features, prototypes),
    )
    torch.testing.assert_close(
        modify_gap(features, prototypes, shift, chunk_size=chunk_size),
        modify_gap(features, prototypes, shift),
    )


def test_ends_of_the_range() -> None:
    rows = unit_rows(clouds(1)[1])
    own = torch.arange(4)
    assert float(cosine_gap(rows, rows, own)) == pytest.approx(0)
    assert float(cosine_gap(-rows, rows, own)) == pytest.approx(2)
    assert float(centroid_gap(rows, rows)) == pytest.approx(0)
    assert float(centroid_gap(rows[:1], -rows[:1])) == pytest.approx(2)


@given(seed=st.integers(0, 1000))
def test_learned_gap_is_the_diagnosed_gap(seed: int) -> None:
    from vpl_plugin import fit_vision_prototypes

    features, prototypes, assignments = clouds(seed)
    fit = fit_vision_prototypes(features, prototypes, targets=assignments, iterations=3)
    torch.testing.assert_close(
        fit.gaps[-1], cosine_gap(features, fit.prototypes, assignments), atol=1e-6, rtol=1e-6
    )


def test_shift_of_zero_leaves_unit_rows() -> None:
    features, prototypes, _ = clouds(2)
    moved = modify_gap(features, prototypes, 0.0)
    torch.testing.assert_close(moved.features, unit_rows(features))
    torch.testing.assert_close(moved.prototypes, unit_rows(prototypes))


@given(seed=st.integers(0, 1000))
def test_shift_narrows_and_widens_the_gap(seed: int) -> None:
    features, prototypes, _ = clouds(seed)
    gaps = [
        float(centroid_gap(*modify_gap(features, prototypes, shift)))
        for shift in (-1.0, 0.0, 0.5, 1.0)
    ]
    assert gaps == sorted(gaps, reverse=True)
    moved = modify_gap(features, prototypes, 1.0)
    for rows in moved:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64))


def test_shift_follows_the_formula_of_liang() -> None:
    features, prototypes, _ = clouds(3)
    x, z = unit_rows(features), unit_rows(prototypes)
    gap = x.mean(0) - z.mean(0)
    # In their code the direction is unit and the distance absolute.
    delta = 0.7 * gap.norm()
    moved = modify_gap(features, prototypes, 0.7)
    torch.testing.assert_close(moved.features, unit_rows(x - delta / 2 * gap / gap.norm()))
    torch.testing.assert_close(moved.prototypes, unit_rows(z + delta / 2 * gap / gap.norm()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_measured_exactly(dtype: torch.dtype) -> None:
    features, prototypes, assignments = clouds(4, torch.float32)
    half = features.to(dtype)
    exact = half.float()
    for measure in (
        lambda x: cosine_gap(x, prototypes, assignments),
        lambda x: centroid_gap(x, prototypes),
    ):
        torch.testing.assert_close(measure(half), measure(exact), atol=0, rtol=0)
    moved = modify_gap(half, prototypes, 1.0)
    assert moved.features.dtype == dtype
    assert moved.prototypes.dtype == torch.float32
    torch.testing.assert_close(moved.features, modify_gap(exact, prototypes, 1.0)[0].to(dtype))


def test_a_million_equal_pixels_do_not_drift() -> None:
    features = torch.tensor([[0.6, 0.8]]).expand(1_000_000, 2)
    gap = cosine_gap(features, torch.eye(2), torch.zeros(1_000_000, dtype=torch.uint8))
    assert float(gap) == pytest.approx(0.4, abs=1e-7)


def test_bad_input_is_named() -> None:
    features, prototypes, assignments = clouds(0)
    with pytest.raises(ValueError, match="features must have rank 2"):
        cosine_gap(features[0], prototypes, assignments)
    with pytest.raises(ValueError, match="features is empty"):
        centroid_gap(features[:0], prototypes)
    with pytest.raises(ValueError, match="same number of columns D; got D = 6 and D = 5"):
        centroid_gap(features, prototypes[:, :5])
    with pytest.raises(ValueError, match=r"assignments must have shape \(40,\)"):
        cosine_gap(features, prototypes, assignments[:3])
    with pytest.raises(TypeError, match="assignments must be an integer"):
        cosine_gap(features, prototypes, assignments.double())
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\] .* row 5 is 4"):
        cosine_gap(features, prototypes, assignments.index_fill(0, torch.tensor([5]), 4))
    with pytest.raises(ValueError, match="no pixel counts"):
        cosine_gap(features, prototypes, torch.full((40,), 255))
    with pytest.raises(ValueError, match="ignore_index 2 is one of the 4 classes"):
        cosine_gap(features, prototypes, assignments, ignore_index=2)
    broken = features.clone()
    broken[37] = math.nan
    with pytest.raises(ValueError, match="features must be finite; row 37"):
        centroid_gap(broken, prototypes, chunk_size=10)
    broken[37] = 0
    with pytest.raises(ValueError, match=r"features must have rows of non-zero norm.* row 37"):
        cosine_gap(broken, prototypes, assignments, chunk_size=10)
    with pytest.raises(ValueError, match="prototypes must be finite; row 0"):
        centroid_gap(features, prototypes * math.inf)
    with pytest.raises(ValueError, match="shift must be a finite number; got nan"):
        modify_gap(features, prototypes, math.nan)
    with pytest.raises(ValueError, match="chunk_size must be a whole number"):
        centroid_gap(features, prototypes, chunk_size=0)
    with pytest.raises(ValueError, match="features and prototypes must be on one device"):
        centroid_gap(features, prototypes.to("meta"))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype) -> None:
    features, prototypes, assignments = clouds(5, torch.float32)
    features = features.to(dtype)
    here = (features, prototypes, assignments)
    there = tuple(part.to(cuda) for part in here)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        gap, distance = cosine_gap(*there), centroid_gap(*there[:2])
        moved = modify_gap(*there[:2], 1.0)
    torch.testing.assert_close(gap.cpu(), cosine_gap(*here), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(distance.cpu(), centroid_gap(*here[:2]), atol=1e-6, rtol=1e-5)
    for actual, expected in zip(moved, modify_gap(*here[:2], 1.0), strict=True):
        torch.testing.assert_close(actual.cpu(), expected)
