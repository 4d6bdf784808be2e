"""Intervals of differences in mIoU over photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.localization import (
    confusion_matrix,
    iou_counts,
    mean_iou,
    paired_difference,
    segmentation_scores,
)
from vpl_plugin.localization.photo_counts import read_photo_counts, write_photo_counts


def label_maps(seed: int, photos: int, right: float) -> torch.Tensor:
    """(photos, 3, C) counts of label maps of which so much is right."""
    generator = np.random.default_rng(seed)
    counts = []
    for _ in range(photos):
        truth = generator.integers(0, 4, (8, 9))
        predicted = np.where(
            generator.random((8, 9)) < right, truth, generator.integers(0, 4, (8, 9))
        )
        counts.append(iou_counts(confusion_matrix(predicted, truth, 5)))
    return torch.stack(counts)


@given(seed=st.integers(0, 1000), photos=st.integers(1, 6))
def test_counts_of_photos_add_up_to_the_miou_of_the_split(seed: int, photos: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confusion = torch.randint(0, 9, (photos, 5, 5), generator=generator)
    confusion[:, 4] = 0
    counts = iou_counts(confusion)
    expected = segmentation_scores(confusion.sum(0)).miou
    assert float(mean_iou(counts.sum(0))) == pytest.approx(expected, abs=1e-12)


def test_a_difference_against_resampling_by_hand() -> None:
    better, base = label_maps(0, 12, 0.8), label_maps(1, 12, 0.6)
    found = paired_difference(better, base, draws=500, seed=3)
    drawn = torch.randint(12, (500, 12), generator=torch.Generator().manual_seed(3))
    by_hand = [float(mean_iou(better[rows].sum(0)) - mean_iou(base[rows].sum(0))) for rows in drawn]
    assert found.low == pytest.approx(np.quantile(by_hand, 0.025), abs=1e-9)
    assert found.high == pytest.approx(np.quantile(by_hand, 0.975), abs=1e-9)
    whole = float(mean_iou(better.sum(0)) - mean_iou(base.sum(0)))
    assert found.mean == pytest.approx(whole, abs=1e-12)
    assert found.low < found.mean < found.high


def test_pairing_narrows_the_interval_and_equals_have_none() -> None:
    base = label_maps(0, 40, 0.6)
    # Photos differ widely in size; the gain is the same share on each.
    sizes = torch.tensor([1, 20]).repeat(20)[:, None, None]
    base = base * sizes
    better = base.clone()
    better[:, 0] += (0.2 * (base[:, 2] - base[:, 0])).long()
    paired = paired_difference(better, base)
    shuffled = paired_difference(better[torch.randperm(40)], base)
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    assert paired.low > 0
    assert paired_difference(base, base) == (0, 0, 0)


def test_runs_are_averaged() -> None:
    runs = torch.stack([label_maps(seed, 10, 0.7) for seed in range(3)])
    base = label_maps(9, 10, 0.5)
    found = paired_difference(runs, base)
    each = [paired_difference(run, base).mean for run in runs]
    assert found.mean == pytest.approx(sum(each) / 3)
    assert paired_difference(runs, base) == paired_difference(runs, base)


def test_counts_on_disk_come_back(tmp_path: Path) -> None:
    counts = label_maps(0, 2, 0.5)
    write_photo_counts(tmp_path / "x.npz", ["a/1", "b"], {"refined": counts})
    held = read_photo_counts(tmp_path / "x.npz")
    assert held.names == ("a/1", "b")
    assert torch.equal(held.kinds["refined"], counts)
    (tmp_path / "broken.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:90])
    np.savez(tmp_path / "other.npz", names=np.array(["a"]), counts_x=np.zeros((3, 3, 2)))
    for name in ("broken", "other"):
        with pytest.raises(ValueError, match=rf"{name}\.npz"):
            read_photo_counts(tmp_path / f"{name}.npz")


def test_bad_input_is_named() -> None:
    counts = label_maps(0, 3, 0.5)
    with pytest.raises(ValueError, match=r"counts must have shape \(photos, 3, C\) or"):
        paired_difference(counts[0], counts)
    with pytest.raises(ValueError, match="base must have shape"):
        paired_difference(counts, counts[:0])
    with pytest.raises(ValueError, match="the same photos and classes"):
        paired_difference(counts, counts[:2])
    with pytest.raises(ValueError, match="level"):
        paired_difference(counts, counts, level=95)
    with pytest.raises(ValueError, match="draws"):
        paired_difference(counts, counts, draws=0)
