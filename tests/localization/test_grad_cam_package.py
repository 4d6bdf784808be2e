from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image

from vpl_plugin.clip import load_clip
from vpl_plugin.localization import ClassProbability, PrototypeClassifier, grad_cam
from vpl_plugin.prototypes import Prototypes


def make_inputs(model, side, batch=1, temperature=None):
    generator = torch.Generator().manual_seed(3)
    shape = (batch, 3, 3 * side, 5 * side)
    rows = torch.randn(7, model.embed_dim, generator=generator)
    prototypes = Prototypes(rows, ("a", "b", "c", "d"), temperature)
    return torch.randn(shape, generator=generator), prototypes


def package_cams(classifier, pixels, classes):
    cam = GradCAM(
        model=classifier,
        target_layers=[classifier.target_layer],
        reshape_transform=classifier.reshape_transform,
    )
    with cam:
        return [cam(input_tensor=pixels, targets=[ClassProbability(c)])[0] for c in classes]


@pytest.mark.parametrize("temperature", [None, 0.03])
def test_batched_path_equals_the_package(mini, temperature):
    pixels, prototypes = make_inputs(mini, side=16, temperature=temperature)
    present = [0, 2, 3]
    classifier = PrototypeClassifier(mini, prototypes, classes=present)
    theirs = package_cams(classifier, pixels, present)
    tokens = mini.tokens_before_last_block(pixels)
    ours = grad_cam(mini, tokens, prototypes, [present])
    # The package resizes to the photo and stretches again; the same is done to ours.
    resized = scale_cam_image([cv2.resize(c.numpy(), (80, 48)) for c in ours.cams[0]])
    np.testing.assert_allclose(np.stack(theirs), resized, rtol=0, atol=1e-5)
    probabilities = classifier(pixels)
    torch.testing.assert_close(probabilities[:, present].detach(), ours.probabilities)
    assert probabilities[0, 1] == 0


def test_raw_output_of_the_package_equals_the_batched_path(mini):
    """The package's map before it is resized, by a subclass that keeps it."""

    class RawGradCAM(GradCAM):
        def get_target_width_height(self, input_tensor):
            return None

    pixels, prototypes = make_inputs(mini, side=16, batch=2)
    classes = [[1], [3]]
    ours = grad_cam(mini, mini.tokens_before_last_block(pixels), prototypes, classes)
    for photo, (present,) in enumerate(classes):
        classifier = PrototypeClassifier(mini, prototypes, classes=[present])
        with RawGradCAM(classifier, [classifier.target_layer], classifier.reshape_transform) as cam:
            raw = cam(pixels[photo : photo + 1], [ClassProbability(present)])[0]
        assert raw.shape == (3, 5)
        np.testing.assert_allclose(ours.cams[photo, 0].numpy(), raw, rtol=0, atol=1e-5)


def test_without_classes_every_prototype_is_in_the_softmax(tiny_clip):
    model = tiny_clip()
    pixels, prototypes = make_inputs(model, side=4, batch=2)
    probabilities = PrototypeClassifier(model, prototypes)(pixels)
    assert probabilities.shape == (2, 7)
    assert (probabilities > 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_reshape_transform_follows_the_photo(tiny_clip):
    model = tiny_clip()
    classifier = PrototypeClassifier(model, make_inputs(model, side=4)[1])
    for height, width in ((3, 5), (6, 2)):
        classifier(torch.zeros(1, 3, 4 * height, 4 * width))
        tokens = torch.arange(1 + height * width).float().view(1, -1, 1)
        expected = torch.arange(1, 1 + height * width).float().view(1, 1, height, width)
        assert torch.equal(classifier.reshape_transform(tokens), expected)


def test_asks_for_no_attention_that_nobody_reads(tiny_clip, monkeypatch):
    model = tiny_clip()
    pixels, prototypes = make_inputs(model, side=4)
    genuine, maps = model.tokens_before_last_block, []

    def counted(*arguments, **options):
        tokens = genuine(*arguments, **options)
        maps.append(tokens.attention.shape[1])
        return tokens

    monkeypatch.setattr(model, "tokens_before_last_block", counted)
    PrototypeClassifier(model, prototypes)(pixels)
    assert maps == [0]


def test_leaves_no_gradient_behind(tiny_clip):
    model = tiny_clip()
    pixels, prototypes = make_inputs(model, side=4)
    classifier = PrototypeClassifier(model, prototypes)
    package_cams(classifier, pixels, [0])
    assert all(weight.grad is None for weight in classifier.parameters())


def test_moving_the_classifier_moves_the_model():
    model = load_clip("mini", device="cpu")
    classifier = PrototypeClassifier(model, make_inputs(model, side=16)[1]).to("meta")
    assert model.device.type == classifier.prototypes.device.type == "meta"


def test_bad_input(tiny_clip):
    model = tiny_clip()
    prototypes = make_inputs(model, side=4)[1]
    with pytest.raises(TypeError, match="must be Prototypes"):
        PrototypeClassifier(model, prototypes.rows)
    with pytest.raises(ValueError, match="got 4"):
        PrototypeClassifier(model, prototypes, classes=[4])
    with pytest.raises(ValueError, match="D = 12"):
        PrototypeClassifier(model, Prototypes(prototypes.rows[:, :5], prototypes.class_names))
    with pytest.raises(ValueError, match="on the model's device"):
        PrototypeClassifier(model, prototypes.to("meta"))
    with pytest.raises(ValueError, match="index must be a whole number"):
        ClassProbability(-1)
    with pytest.raises(ValueError, match="below the number of classes 3; got 3"):
        ClassProbability(3)(torch.zeros(3))
