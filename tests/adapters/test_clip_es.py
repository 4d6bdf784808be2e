"""The CLIP-ES pipeline end to end, on real photographs that packages ship and on VOC's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.adapters.clip_es import (
    encode_photo,
    learn_from_photos,
    mask_on_grid,
    photo_cams,
    seed_pixels,
    seed_scores,
)
from vpl_plugin.adapters.clip_es.scores import seed_confusion
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.clip import VOC, ClipModel, class_prototypes, open_photo
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import cams_to_labels, confusion_matrix, read_mask, resize_cams
from vpl_plugin.prototypes import Prototypes

N = len(VOC.labels)


@pytest.fixture(scope="module")
def text(mini: ClipModel) -> Prototypes:
    return class_prototypes(mini, VOC)


@pytest.fixture(scope="module")
def photos(mini: ClipModel) -> list:
    return [
        encode_photo(mini, item.photo.reduce(3), VOC.indices(item.labels), name=item.name)
        for item in demo_photos()
    ]


@given(seed=st.integers(0, 10**6))
def test_one_histogram_serves_all_powers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(2, 3, 4, generator=generator)
    cams[:, 0, 0] = 0
    truth = torch.randint(0, 5, (13, 17), generator=generator)
    truth[:2] = 255
    powers = (1.0, 1.5, 2.0, 10.0)
    found = seed_confusion(cams, [3, 0], (13, 17), truth, 4, powers)
    for power, confusion in zip(powers, found, strict=True):
        labels = cams_to_labels(resize_cams(cams, (13, 17)), [3, 0], power)
        assert torch.equal(confusion, confusion_matrix(labels, truth, 5))


def test_seed_pixels_are_drawn_evenly_and_the_same_for_the_same_seed(
    mini: ClipModel, text: Prototypes, photos: list
) -> None:
    first = seed_pixels(mini, photos, text, seed=3, pixels_per_photo=20)
    again = seed_pixels(mini, iter(photos), text, seed=3, pixels_per_photo=20)
    other = seed_pixels(mini, photos, text, seed=4, pixels_per_photo=20)
    assert first.features.shape == (120, mini.embed_dim)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.features, other.features)
    everything = seed_pixels(mini, photos, text, pixels_per_photo=None)
    assert len(everything.features) == sum(len(photo.features) for photo in photos)
    absent = sorted(set(range(N)) - {index for photo in photos for index in photo.classes})
    assert everything.targets[:, absent].sum() == 0


def test_learning_lowers_the_loss_and_changes_the_cams(
    mini: ClipModel, text: Prototypes, photos: list
) -> None:
    vision, fit = learn_from_photos(mini, photos, text)
    assert torch.equal(vision.rows, fit.prototypes)
    assert (vision.class_names, vision.temperature) == (VOC.labels, 0.03)
    assert vision.about["background"] == list(VOC.background)
    assert vision.about["loss"] == float(fit.losses[-1])
    assert fit.losses[-1] < fit.losses[0]
    before, after = (photo_cams(mini, photos[0], kind) for kind in (text, vision))
    assert (before.refined - after.refined).abs().max() > 0.05


def test_scores_of_perfect_and_of_hopeless_cams(
    mini: ClipModel, text: Prototypes, photos: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vpl_plugin.adapters.clip_es import scores
    from vpl_plugin.adapters.clip_es.cams import PhotoCAMs

    photo = photos[1]._replace(size=photos[1].tokens.grid)
    mask = np.zeros(photo.size, np.uint8)
    mask[:, 3:] = photo.classes[0] + 1
    mask[0] = 255
    truth = torch.from_numpy(mask == photo.classes[0] + 1).float()[None]

    def perfect(*_: object, **__: object) -> PhotoCAMs:
        return PhotoCAMs(1 - truth, truth, torch.ones(1))

    monkeypatch.setattr(scores, "photo_cams", perfect)
    result = seed_scores(mini, [(photo, mask)], text)
    assert result.refined == 1.0
    assert result.raw == 0.0
    cosine = photo.features[mask_on_grid(mask, photo.tokens.grid) == photo.classes[0] + 1]
    expected = 1 - (cosine @ text.rows[photo.classes[0]]).mean()
    assert result.gap == pytest.approx(float(expected), abs=1e-5)


def test_bad_input_is_named(mini: ClipModel, text: Prototypes, photos: list) -> None:
    with pytest.raises(ValueError, match="classes of photo 'x' must name at least one class"):
        encode_photo(mini, np.zeros((32, 32, 3), np.uint8), [], name="x")
    with pytest.raises(ValueError, match="photos is empty"):
        seed_pixels(mini, [], text)
    with pytest.raises(ValueError, match="pixels_per_photo must be a whole number"):
        seed_pixels(mini, photos, text, pixels_per_photo=0)
    with pytest.raises(ValueError, match="photos is empty"):
        seed_scores(mini, [], text)


@pytest.mark.shared
def test_vision_prototypes_beat_text_prototypes_on_voc_photographs(
    mini: ClipModel, text: Prototypes, shared_dir: Path
) -> None:
    pairs = []
    for item in voc_photos(shared_dir / "data" / "voc", "val_dev.txt", labels="masks").photos:
        mask = read_mask(item.mask)
        photo = open_photo(item.photo)
        pairs.append((encode_photo(mini, photo, item.classes, name=item.name), mask))
    learned, _ = learn_from_photos(mini, [photo for photo, _ in pairs], text)
    before, after = (seed_scores(mini, pairs, kind) for kind in (text, learned))
    assert after.refined > before.refined + 0.03
    assert after.raw > before.raw + 0.03
    assert after.gap < before.gap
