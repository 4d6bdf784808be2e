"""Parity with what CLIP-ES's own code gave on real photos with the embedded weights."""

from __future__ import annotations

from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from vpl_plugin.clip import VOC as labels
from vpl_plugin.clip import load_clip, open_photo
from vpl_plugin.localization import (
    clip_es_photo,
    grad_cam,
    mean_attention,
    pseudo_mask,
    refine_cams,
    resize_cams,
)
from vpl_plugin.prototypes import Prototypes

pytestmark = pytest.mark.shared

PHOTOS = ["2007_000256", "2007_000515", "2007_000648", "2007_000713", "2007_000836", "2007_001439"]
# The classes that these photos show.
VOC = {
    "aeroplane": 0,
    "bicycle": 1,
    "boat": 3,
    "bus": 5,
    "car": 6,
    "chair": 8,
    "diningtable": 10,
    "horse": 12,
    "person": 14,
}


class Localised(NamedTuple):
    photo: np.ndarray
    classes: list[int]
    probabilities: np.ndarray
    cams: np.ndarray
    refined: torch.Tensor


@pytest.fixture(scope="module")
def golden(shared_dir):
    return np.load(shared_dir / "golden/clip_es.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def localise(shared_dir, golden):
    """Both kinds of prototypes over every photo, each computed once."""
    model = load_clip("mini", device="cpu")
    folder = shared_dir / "golden/voc"
    cache = {}

    def run(kind, name):
        if (kind, name) not in cache:
            root = ElementTree.parse(folder / f"Annotations/{name}.xml").getroot()
            names = dict.fromkeys(thing.findtext("name") for thing in root.iter("object"))
            classes = [VOC[thing] for thing in names]
            photo = open_photo(folder / f"JPEGImages/{name}.jpg")
            tokens = model.tokens_before_last_block(
                model.preprocess(photo)[None], position_dtype=torch.float16
            )
            rows = [torch.from_numpy(golden[f"{kind}/{part}"]) for part in ("fg", "bg")]
            prototypes = Prototypes(torch.cat(rows), labels.labels)
            output = grad_cam(model, tokens, prototypes, [classes])
            attention = mean_attention(tokens.attention, output.attention)
            refined = refine_cams(output.cams, attention)[0]
            cache[kind, name] = Localised(
                np.array(photo),
                classes,
                output.probabilities[0].numpy(),
                output.cams[0].numpy(),
                resize_cams(refined, photo.size[::-1]),
            )
        return cache[kind, name]

    return run


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("kind", ["text", "swapped"])
def test_cams(golden, localise, kind, name):
    ours = localise(kind, name)
    theirs = {
        part: golden[f"{kind}/{name}/{part}"]
        for part in ("keys", "probabilities", "raw_cam", "refined_cam")
    }
    # Upstream lists the classes in the order of the annotation.
    order = [ours.classes.index(key) for key in theirs["keys"]]
    assert len(order) == len(ours.classes)
    np.testing.assert_allclose(
        ours.probabilities[order], theirs["probabilities"][: len(order)], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(ours.cams[order], theirs["raw_cam"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        ours.refined[order].numpy(), theirs["refined_cam"].astype(np.float32), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("name", PHOTOS)
def test_pseudo_masks(golden, localise, name):
    ours = localise("text", name)
    mask = pseudo_mask(clip_es_photo(ours.photo), ours.refined, ours.classes)
    assert (mask == golden[f"crf/{name}/pseudo_mask"]).mean() >= 0.999


@pytest.mark.parametrize("name", PHOTOS[2:4])
def test_labels_after_the_crf(golden, localise, name):
    ours = localise("text", name)
    label = pseudo_mask(clip_es_photo(ours.photo), ours.refined, ours.classes, confidence=0)
    assert (label == golden[f"crf/{name}/label"]).mean() >= 0.999
