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
from vpl_plugin.cli.demo_photos import demo_photos
from vpl_plugin.clip import VOC, ClipModel, load_clip, open_photo, text_prototypes
from vpl_plugin.localization import cams_to_labels, confusion_matrix, read_mask, resize_cams

N = len(VOC.labels)


@pytest.fixture(scope="module")
def model() -> ClipModel:
    return load_clip("mini", device="cpu")


@pytest.fixture(scope="module")
def Z(model: ClipModel) -> torch.Tensor:
    return text_prototypes(model, [*VOC.prompts, *VOC.background])


@pytest.fixture(scope="module")
def photos(model: ClipModel) -> list:
    return [
        encode_photo(model, item.photo.reduce(3), VOC.indices(item.labels), name=item.name)
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
    model: ClipModel, Z: torch.Tensor, photos: list
) -> None:
    options = {"num_foreground": N, "pixels_per_photo": 20}
    first = seed_pixels(model, photos, Z, seed=3, **options)
    again = seed_pixels(model, iter(photos), Z, seed=3, **options)
    other = seed_pixels(model, photos, Z, seed=4, **options)
    assert first.features.shape == (120, model.embed_dim)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.features, other.features)
    everything = seed_pixels(model, photos, Z, num_foreground=N, pixels_per_photo=None)
    assert len(everything.features) == sum(len(photo.features) for photo in photos)
    absent = sorted(set(range(N)) - {index for photo in photos for index in photo.classes})
    assert everything.targets[:, absent].sum() == 0


def test_learning_lowers_the_loss_and_changes_the_cams(
    model: ClipModel, Z: torch.Tensor, photos: list
) -> None:
    fit = learn_from_photos(model, photos, Z, num_foreground=N)
    assert fit.losses[-1] < fit.losses[0]
    text = photo_cams(model, photos[0], Z, num_foreground=N)
    vision = photo_cams(model, photos[0], fit.prototypes, num_foreground=N, temperature=0.03)
    assert (text.refined - vision.refined).abs().max() > 0.05


def test_scores_of_perfect_and_of_hopeless_cams(
    model: ClipModel, Z: torch.Tensor, photos: list, monkeypatch: pytest.MonkeyPatch
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
    result = seed_scores(model, [(photo, mask)], Z, num_foreground=N)
    assert result.refined == 1.0
    assert result.raw == 0.0
    cosine = photo.features[mask_on_grid(mask, photo.tokens.grid) == photo.classes[0] + 1]
    expected = 1 - (cosine @ Z[photo.classes[0]]).mean()
    assert result.gap == pytest.approx(float(expected), abs=1e-5)


def test_bad_input_is_named(model: ClipModel, Z: torch.Tensor, photos: list) -> None:
    with pytest.raises(ValueError, match="classes of photo 'x' must name at least one class"):
        encode_photo(model, np.zeros((32, 32, 3), np.uint8), [], name="x")
    with pytest.raises(ValueError, match="photos is empty"):
        seed_pixels(model, [], Z, num_foreground=N)
    with pytest.raises(ValueError, match="pixels_per_photo must be a whole number"):
        seed_pixels(model, photos, Z, num_foreground=N, pixels_per_photo=0)
    with pytest.raises(ValueError, match="photos is empty"):
        seed_scores(model, [], Z, num_foreground=N)


@pytest.mark.shared
def test_vision_prototypes_beat_text_prototypes_on_voc_photographs(
    model: ClipModel, Z: torch.Tensor, shared_dir: Path
) -> None:
    pairs = []
    for item in voc_photos(shared_dir / "data" / "voc", "val_dev.txt", labels="masks").photos:
        mask = read_mask(item.mask)
        photo = open_photo(item.photo)
        pairs.append((encode_photo(model, photo, item.classes, name=item.name), mask))
    fit = learn_from_photos(model, [photo for photo, _ in pairs], Z, num_foreground=N)
    text = seed_scores(model, pairs, Z, num_foreground=N)
    vision = seed_scores(model, pairs, fit.prototypes, num_foreground=N, temperature=0.03)
    assert vision.refined > text.refined + 0.03
    assert vision.raw > text.raw + 0.03
    assert vision.gap < text.gap
