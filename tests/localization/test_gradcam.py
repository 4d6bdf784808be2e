from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.clip import load_clip
from vpl_plugin.localization import grad_cam, min_max, pad_classes
from vpl_plugin.prototypes import Prototypes

CLASSES = ("a", "b", "c", "d")
NUM_FOREGROUND = len(CLASSES)


@pytest.fixture(scope="module")
def model(tiny_clip):
    return tiny_clip(torch.float64)


def make_photos(batch, seed=0, grid=(3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, grid[0] * 4, grid[1] * 4, generator=generator, dtype=dtype)


def make_prototypes(seed=0, dtype=torch.float64, rows=7):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(rows, 12, generator=generator, dtype=dtype)


def localise(model, pixels, rows, classes, temperature=None):
    tokens = model.tokens_before_last_block(pixels)
    return grad_cam(model, tokens, Prototypes(rows, CLASSES, temperature), classes)


def literal_cam(model, pixels, prototypes, present, target, temperature):
    """One class of one photo, one forward and one backward, step by step."""
    tokens = model.tokens_before_last_block(pixels)
    activations = model.last_block_norm(tokens.tokens).detach().requires_grad_()
    output, _ = model.after_norm(tokens.tokens, activations)
    embedding = model.project(output)[0].mean(0)
    shown = [*present, *range(NUM_FOREGROUND, len(prototypes))]
    cosines = [F.cosine_similarity(embedding, prototypes[row], dim=0) for row in shown]
    probability = (torch.stack(cosines) / temperature).softmax(0)[present.index(target)]
    probability.backward()
    height, width = tokens.grid
    cam = torch.zeros(height, width, dtype=pixels.dtype)
    weights = activations.grad[0, 1:].mean(0)
    for patch in range(height * width):
        value = (weights * activations[0, 1 + patch]).sum().clamp(min=0)
        cam[patch // width, patch % width] = value.detach()
    for _ in range(2):
        cam = cam - cam.min()
        cam = cam / (1e-7 + cam.max())
    return cam, probability.detach()


def test_equals_one_backward_a_class(model):
    pixels, prototypes = make_photos(3), make_prototypes()
    classes = [[2], [0, 3], [1, 2, 3]]
    output = localise(model, pixels, prototypes, classes, temperature=0.05)
    for photo, present in enumerate(classes):
        for k, target in enumerate(present):
            cam, probability = literal_cam(
                model, pixels[photo : photo + 1], prototypes, present, target, 0.05
            )
            assert cam.max() > 0.99
            torch.testing.assert_close(output.cams[photo, k], cam, rtol=0, atol=1e-9)
            torch.testing.assert_close(output.probabilities[photo, k], probability)


def test_features_and_attention_are_those_of_the_last_block(model):
    pixels = make_photos(2)
    tokens = model.tokens_before_last_block(pixels)
    block, attention = model.after_norm(tokens.tokens, model.last_block_norm(tokens.tokens))
    output = localise(model, pixels, make_prototypes(), [[0], [1]])
    torch.testing.assert_close(output.features, F.normalize(model.project(block), dim=-1))
    torch.testing.assert_close(output.attention, attention)
    assert output.features.shape == (2, 15, 12)
    assert output.attention.shape == (2, 15, 15)


def test_default_temperature_is_that_of_the_model(model):
    pixels, prototypes = make_photos(1), make_prototypes()
    default = localise(model, pixels, prototypes, [[1, 2]])
    explicit = localise(model, pixels, prototypes, [[1, 2]], temperature=1 / 20)
    softer = localise(model, pixels, prototypes, [[1, 2]], temperature=1.0)
    assert torch.equal(default.cams, explicit.cams)
    assert not torch.allclose(default.cams, softer.cams, atol=1e-3)


@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_batch_equals_photos_one_by_one(model, seed, sizes):
    pixels, prototypes = make_photos(len(sizes), seed), make_prototypes(seed)
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randperm(4, generator=generator)[:size].tolist() for size in sizes]
    batch = localise(model, pixels, prototypes, classes)
    assert batch.cams.min() >= 0
    assert batch.cams.max() <= 1
    for photo, present in enumerate(classes):
        single = localise(model, pixels[photo : photo + 1], prototypes, [present])
        count = len(present)
        torch.testing.assert_close(batch.cams[photo, :count], single.cams[0], rtol=0, atol=1e-8)
        torch.testing.assert_close(batch.probabilities[photo, :count], single.probabilities[0])
        assert not batch.cams[photo, count:].any()
        assert not batch.probabilities[photo, count:].any()


@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)))
def test_order_of_classes_only_orders_the_maps(model, seed, order):
    pixels, prototypes = make_photos(1, seed), make_prototypes(seed)
    plain = localise(model, pixels, prototypes, [[0, 1, 2, 3]])
    permuted = localise(model, pixels, prototypes, [list(order)])
    torch.testing.assert_close(permuted.cams[0], plain.cams[0, list(order)], rtol=0, atol=1e-8)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_absent_classes_background_order_and_norms_do_not_matter(model, seed, scale):
    pixels, prototypes = make_photos(1, seed), make_prototypes(seed)
    plain = localise(model, pixels, prototypes, [[0, 2]])
    changed = prototypes * scale
    changed[[1, 3]] = make_prototypes(seed + 1)[[1, 3]]
    changed[NUM_FOREGROUND:] = changed[NUM_FOREGROUND:].flip(0)
    other = localise(model, pixels, changed, [[0, 2]])
    torch.testing.assert_close(plain.cams, other.cams, rtol=0, atol=1e-8)


def test_padded_tensor_and_lists_say_the_same(model):
    pixels, prototypes = make_photos(2), make_prototypes()
    lists = localise(model, pixels, prototypes, [[3], [0, 2]])
    tensor = localise(model, pixels, prototypes, torch.tensor([[3, -1, -1], [0, -1, 2]]))
    assert tensor.cams.shape[1] == 3
    torch.testing.assert_close(tensor.cams[0, :1], lists.cams[0, :1])
    torch.testing.assert_close(tensor.cams[1, [0, 2]], lists.cams[1])
    assert not tensor.cams[1, 1].any()


def test_saturated_softmax_still_gives_a_full_map(model):
    # Where the probability is nearly 1 its gradient lies below the normalisation's epsilon.
    pixels, prototypes = make_photos(1), make_prototypes()
    tokens = model.tokens_before_last_block(pixels)
    block, _ = model.after_norm(tokens.tokens, model.last_block_norm(tokens.tokens))
    prototypes[0] = model.project(block)[0].mean(0) + 0.2 * prototypes[0]
    output = localise(model, pixels, prototypes, [[0]], temperature=0.01)
    assert 1 - output.probabilities[0, 0] < 1e-7
    assert output.cams.max() > 0.95


def test_runs_without_gradients_around_it_and_returns_none(model):
    pixels, prototypes = make_photos(1), make_prototypes()
    plain = localise(model, pixels, prototypes, [[0, 1]])
    with torch.no_grad():
        quiet = localise(model, pixels, prototypes, [[0, 1]])
    with torch.inference_mode():
        inference = localise(model, pixels.clone(), prototypes.clone(), [[0, 1]])
    for output in (plain, quiet, inference):
        assert torch.equal(output.cams, plain.cams)
        assert not any(part.requires_grad for part in output)


def test_learned_prototypes_that_require_gradients_are_taken_as_constants(model):
    prototypes = make_prototypes().requires_grad_()
    output = localise(model, make_photos(1), prototypes, [[0]])
    assert not output.cams.requires_grad
    assert prototypes.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_model_gives_float32_close_to_float32(tiny_clip, dtype):
    classes = [[2], [0, 3]]
    prototypes = make_prototypes(dtype=torch.float32)
    pixels = make_photos(2, dtype=torch.float32)
    full = localise(tiny_clip(torch.float32), pixels, prototypes, classes)
    half = localise(tiny_clip(dtype), pixels.to(dtype), prototypes, classes)
    assert half.cams.dtype == half.features.dtype == half.attention.dtype == torch.float32
    torch.testing.assert_close(half.cams, full.cams, rtol=0, atol=0.15)


@pytest.mark.cuda
def test_cuda_equals_cpu(cuda):
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 96, 64, generator=generator)
    prototypes = torch.randn(7, 256, generator=generator)
    outputs = []
    for device in ("cpu", cuda):
        model = load_clip("mini", device=device)
        outputs.append(localise(model, pixels.to(device), prototypes.to(device), [[2], [0, 3]]))
    on_cpu, on_cuda = outputs
    assert on_cuda.cams.device.type == "cuda"
    torch.testing.assert_close(on_cuda.cams.cpu(), on_cpu.cams, rtol=0, atol=1e-3)
    torch.testing.assert_close(on_cuda.probabilities.cpu(), on_cpu.probabilities, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([[0], []], "photo 1 has none"),
        ([[0], [1, 1]], r"once a photo; photo 1 has \[1, 1\]"),
        ([[0], [4]], r"in \[0, 3\].*got 4"),
        ([[0], [-2]], r"in \[0, 3\].*got -2"),
        ([[0]], "2 photos of tokens; got 1"),
        (torch.tensor([0, 1]), r"shape \(B, K\)"),
        ([], "at least one photo"),
    ],
)
def test_wrong_classes(model, classes, message):
    with pytest.raises(ValueError, match=message):
        localise(model, make_photos(2), make_prototypes(), classes)


@pytest.mark.parametrize("classes", [[0, 1], torch.tensor([[0.0], [1.0]]), ["0", "1"]])
def test_classes_of_the_wrong_kind(model, classes):
    with pytest.raises(TypeError, match="classes must be"):
        localise(model, make_photos(2), make_prototypes(), classes)


def test_wrong_prototypes(model):
    tokens = model.tokens_before_last_block(make_photos(1))
    with pytest.raises(ValueError, match=r"D = 12 columns.*3, 5"):
        grad_cam(model, tokens, Prototypes(torch.randn(3, 5), ("a", "b")), [[0]])
    with pytest.raises(ValueError, match=r"num_foreground must leave.*got 7"):
        grad_cam(model, tokens, Prototypes(make_prototypes(), tuple("abcdefg")), [[0]])
    with pytest.raises(ValueError, match="temperature"):
        localise(model, make_photos(1), make_prototypes(), [[0]], temperature=0.0)
    with pytest.raises(ValueError, match="on one device"):
        localise(model, make_photos(1), make_prototypes().to("meta"), [[0]])
    with pytest.raises(TypeError, match=r"must be Prototypes\(rows, class_names\); got .*7, 12"):
        grad_cam(model, tokens, make_prototypes(), [[0]])


def test_pad_classes_takes_any_integer_tensor():
    padded = pad_classes(torch.tensor([[1, -1]], dtype=torch.int32), 2)
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[1, -1]]


@given(seed=st.integers(0, 10**6), low=st.floats(-10, 10), span=st.floats(0.01, 100))
def test_min_max_ignores_shift_and_scale(seed, low, span):
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    normalised = min_max(maps)
    assert torch.equal(normalised.amin((-2, -1)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(min_max(maps * span + low), normalised, rtol=0, atol=2e-5)


def test_min_max_of_a_constant_map_is_zero():
    assert torch.equal(min_max(torch.full((1, 2, 2), 3.0)), torch.zeros(1, 2, 2))
