from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.localization import background_score, cams_to_labels, resize_cams, seed_targets
from vpl_plugin.prototypes import Prototypes


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*rows, 6, generator=generator, dtype=torch.float64), dim=-1)


def text(rows=None):
    return Prototypes(directions((7,), 1) if rows is None else rows, ("a", "b", "c"))


def test_background_score_is_the_power_of_what_the_best_class_leaves():
    cams = rand(2, 3, 4, 5)
    score = background_score(cams, 2)
    assert score.shape == (2, 1, 4, 5)
    assert score[1, 0, 2, 3] == (1 - cams[1, :, 2, 3].max()) ** 2


@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_labels_equal_a_loop_over_pixels(seed, power):
    cams, classes = rand(3, 4, 5, seed=seed), [7, 0, 12]
    labels = cams_to_labels(cams, classes, power)
    for y in range(4):
        for x in range(5):
            scores = [(1 - cams[:, y, x].max()) ** power, *cams[:, y, x]]
            best = max(range(4), key=lambda k: scores[k])
            assert labels[y, x] == [0, 8, 1, 13][best]


def test_labels_of_a_padded_batch_equal_those_of_its_photos():
    cams = rand(2, 3, 4, 5)
    cams[1, 1:] = 0.999
    classes = torch.tensor([[7, 0, 12], [3, -1, -1]])
    labels = cams_to_labels(cams, classes)
    assert torch.equal(labels[0], cams_to_labels(cams[0], classes[0]))
    assert torch.equal(labels[1], cams_to_labels(cams[1, :1], [3]))


def test_background_wins_a_tie():
    assert cams_to_labels(torch.tensor([[[0.5, 0.75]]]), [3]).tolist() == [[0, 4]]


def test_labels_do_not_depend_on_the_order_of_the_classes():
    cams, order = rand(3, 4, 5), [2, 0, 1]
    classes = torch.tensor([7, 0, 12])
    assert torch.equal(cams_to_labels(cams, classes), cams_to_labels(cams[order], classes[order]))


@pytest.mark.parametrize("size", [(37, 50), (5, 7), (64, 9)])
def test_resize_equals_opencv(size):
    cams = rand(2, 5, 7).float()
    expected = [cv2.resize(cam.numpy(), size[::-1]) for cam in cams]
    np.testing.assert_allclose(resize_cams(cams, size).numpy(), expected, rtol=0, atol=1e-5)
    batched = resize_cams(cams[None], size)
    assert torch.equal(batched[0], resize_cams(cams, size))


@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.4, 0.8, 1.0]))
def test_targets_equal_a_loop_over_pixels(seed, threshold):
    cams, classes = rand(2, 3, 2, seed=seed), [2, 0]
    features, prototypes = directions((6,), seed), directions((7,), seed + 1)
    targets = seed_targets(
        cams, classes, features, text(prototypes), threshold=threshold, tau_T=0.1
    )
    torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))
    for pixel in range(6):
        values = cams[:, pixel // 2, pixel % 2]
        expected = torch.zeros(7, dtype=torch.float64)
        if values.max() > threshold:
            expected[classes[int(values.argmax())]] = 1
        else:
            expected[3:] = (prototypes[3:] @ features[pixel] / 0.1).softmax(0)
        torch.testing.assert_close(targets[pixel], expected)


def test_targets_of_a_padded_batch_equal_those_of_its_photos():
    cams = rand(2, 2, 3, 2)
    cams[1, 1] = 0.999
    classes = torch.tensor([[2, 0], [1, -1]])
    features = directions((2, 6), 0)
    batch = seed_targets(cams, classes, features, text())
    first = seed_targets(cams[0], [2, 0], features[0], text())
    second = seed_targets(cams[1, :1], [1], features[1], text())
    torch.testing.assert_close(batch, torch.stack([first, second]))


def test_a_map_at_the_threshold_is_no_seed():
    cams = torch.tensor([[[0.5, 0.0]], [[0.25, 0.75]]])
    prototypes = text(directions((7,), 1).float())
    targets = seed_targets(cams, [0, 1], directions((2,), 0).float(), prototypes, threshold=0.5)
    assert not targets[0, :3].any()
    assert targets[1, 1] == 1


def test_rotating_the_space_leaves_the_targets():
    cams, features, prototypes = rand(2, 3, 2), directions((6,), 0), directions((7,), 1)
    rotation = torch.linalg.qr(rand(6, 6)).Q
    plain = seed_targets(cams, [0, 1], features, text(prototypes))
    turned = seed_targets(cams, [0, 1], features @ rotation, text(prototypes @ rotation))
    torch.testing.assert_close(plain, turned)


def test_bad_input():
    cams, features, known = rand(2, 3, 2), directions((6,), 0), text()

    def targets(classes=(0, 1), features=features, prototypes=known, **settings):
        return seed_targets(cams, classes, features, prototypes, **settings)

    with pytest.raises(ValueError, match=r"classes must have one entry per map, shape \(2,\)"):
        targets(classes=[0])
    with pytest.raises(ValueError, match=r"in \[0, 2\].*got 3"):
        targets(classes=[0, 3])
    with pytest.raises(TypeError, match="classes must be integers"):
        targets(classes=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"features must have shape \(6, 'D'\)"):
        targets(features=features[:5])
    with pytest.raises(ValueError, match="same number of columns"):
        targets(features=features[:, :4])
    with pytest.raises(ValueError, match="num_foreground must leave"):
        targets(prototypes=Prototypes(directions((7,), 1), tuple("abcdefg")))
    with pytest.raises(ValueError, match="threshold"):
        targets(threshold=1.2)
    with pytest.raises(ValueError, match="tau_T"):
        targets(tau_T=0)
    with pytest.raises(ValueError, match="power"):
        cams_to_labels(cams, [0, 1], power=0)
    with pytest.raises(ValueError, match="size must be"):
        resize_cams(cams, (0, 4))
    with pytest.raises(ValueError, match="size must be"):
        resize_cams(cams, 4)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., K, h, w\)"):
        background_score(cams[0])
