from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.localization import (
    SegmentationMeter,
    confusion_matrix,
    error_shares,
    segmentation_scores,
)


def random_labels(seed, num_classes, photos=3):
    generator = np.random.default_rng(seed)
    shape = (photos, 6, 7)
    masks = generator.integers(0, num_classes, shape)
    predictions = np.where(generator.random(shape) < 0.5, masks, generator.integers(0, 4, shape))
    masks[generator.random(shape) < 0.2] = 255
    return predictions.astype(np.uint8), masks.astype(np.uint8)


@given(seed=st.integers(0, 2**32 - 1))
def test_equals_set_arithmetic_over_the_split(seed):
    predictions, masks = random_labels(seed, num_classes=5)
    meter = SegmentationMeter(6)
    for prediction, mask in zip(predictions, masks, strict=True):
        meter.update(prediction, torch.from_numpy(mask))
    scores = meter.compute()
    counted = masks != 255
    ious = {}
    for c in range(6):
        predicted, true = (predictions == c) & counted, (masks == c) & counted
        union = (predicted | true).sum()
        if union == 0:
            assert scores.per_class_iou[c].isnan()
            continue
        iou = (predicted & true).sum() / union
        assert float(scores.per_class_iou[c]) == pytest.approx(iou)
        if true.any():
            ious[c] = iou
    assert scores.miou == pytest.approx(np.mean(list(ious.values())))
    assert scores.pixel_accuracy == pytest.approx((predictions == masks)[counted].mean())


@given(seed=st.integers(0, 2**32 - 1))
def test_the_matrix_is_that_of_torchmetrics(seed):
    predictions, masks = random_labels(seed, num_classes=5)
    meter = SegmentationMeter(6)
    meter.update(predictions, masks)
    assert torch.equal(confusion_matrix(predictions, masks, 6), meter.confusion())


def test_batches_and_photos_count_the_same():
    predictions, masks = random_labels(0, num_classes=5)
    meters = SegmentationMeter(5), SegmentationMeter(5)
    meters[0].update(predictions, masks)
    for prediction, mask in zip(predictions, masks, strict=True):
        meters[1].update(prediction, mask)
    assert meters[0].compute().miou == meters[1].compute().miou


def test_a_class_only_predicted_is_outside_the_mean():
    scores = segmentation_scores(torch.tensor([[2, 0, 2], [0, 4, 0], [0, 0, 0]]))
    assert scores.per_class_iou.tolist() == [0.5, 1.0, 0.0]
    assert scores.miou == 0.75
    assert scores.pixel_accuracy == 0.75


def test_labels_under_the_ignored_region_are_free():
    meter = SegmentationMeter(2)
    meter.update(np.array([[0, 255]], np.uint8), np.array([[0, 255]], np.uint8))
    assert meter.compute().pixel_accuracy == 1.0


def test_bad_input():
    meter = SegmentationMeter(3)
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="must have one shape"):
        meter.update(labels, labels[:1])
    with pytest.raises(ValueError, match=r"prediction must hold labels in \[0, 2\].*got 255"):
        meter.update(labels + 255, labels)
    with pytest.raises(ValueError, match=r"mask must hold labels in \[0, 2\].*got 3"):
        meter.update(labels, labels + 3)
    with pytest.raises(ValueError, match=r"got -1"):
        meter.update(labels.astype(int) - 1, labels)
    with pytest.raises(TypeError, match="prediction must hold integer labels"):
        meter.update(labels.astype(float), labels)
    with pytest.raises(ValueError, match=r"mask must hold labels in \[0, 2\].*got 3"):
        confusion_matrix(labels, labels + 3, 3)
    with pytest.raises(ValueError, match="at least one pixel"):
        segmentation_scores(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"\(C, C\)"):
        segmentation_scores(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="num_classes"):
        SegmentationMeter(0)


def test_importing_the_floor_leaves_heavy_packages_alone():
    code = (
        "import sys, vpl_plugin.localization; "
        "heavy = {'open_clip', 'torchvision', 'matplotlib', 'pytorch_grad_cam', 'torchmetrics', "
        "'cv2', 'pydensecrf'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@given(seed=st.integers(0, 1000))
def test_the_kinds_of_errors_are_all_that_is_not_right(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confusion = torch.randint(50, (4, 4), generator=generator) + torch.eye(4, dtype=torch.long)
    shares = error_shares(confusion)
    right = segmentation_scores(confusion).pixel_accuracy
    assert sum(shares) == pytest.approx(1 - right)
    # Classes in another order make the same errors.
    order = [0, 3, 1, 2]
    assert error_shares(confusion[order][:, order]) == pytest.approx(shares)
