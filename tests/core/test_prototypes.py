"""learn_vision_prototypes: what it returns, what it does not depend on, and what it refuses."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vpl_plugin import PrototypeFit, fit_vision_prototypes, learn_vision_prototypes
from vpl_plugin.core.pixels import PixelChunk

SOLVER_NAMES = ("apgd", "pgd", "pgd_halving")


def clustered(
    pixels: int = 300, dim: int = 12, classes: int = 5, seed: int = 0, gap: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features in clusters of one cone, text prototypes across a gap from them; float64."""
    generator = torch.Generator().manual_seed(seed)
    like = {"generator": generator, "dtype": torch.float64}
    centres = torch.randn(classes, dim, **like)
    labels = torch.randint(classes, (pixels,), generator=generator)
    features = centres[labels] + 0.7 * torch.randn(pixels, dim, **like) + torch.ones(dim)
    text = centres + gap * torch.randn(dim, **like)
    return F.normalize(features, dim=1), F.normalize(text, dim=1), labels


def rotation(dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]


def mean_kl(features: torch.Tensor, text: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Eq. 7, straight from the paper."""
    target = (features @ text.T / 0.01).softmax(1)
    log_vision = (features @ W.T / 0.03).log_softmax(1)
    return F.kl_div(log_vision, target, reduction="batchmean")


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_prototypes_are_unit_rows_that_lower_the_kl_of_eq_7(solver: str) -> None:
    features, text, _ = clustered()
    W = learn_vision_prototypes(features, text, 0.03, solver=solver, lr=0.05, iterations=60)
    torch.testing.assert_close(W.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert mean_kl(features, text, W) < 0.7 * mean_kl(features, text, text)


def test_the_trace_is_the_kl_of_eq_7_and_the_cosine_gap() -> None:
    features, text, labels = clustered()
    fit = fit_vision_prototypes(features, text, iterations=7, tolerance=0)
    assert isinstance(fit, PrototypeFit)
    assert fit.stop_reason == "iterations"
    assert len(fit.losses) == len(fit.gaps) == 8
    kl = fit.losses - fit.target_entropy
    torch.testing.assert_close(kl[0], mean_kl(features, text, text))
    torch.testing.assert_close(kl[-1], mean_kl(features, text, fit.prototypes))
    by_label = fit_vision_prototypes(features, text, targets=labels, iterations=7, tolerance=0)
    cosine = (features * by_label.prototypes[labels]).sum(1).mean()
    torch.testing.assert_close(by_label.gaps[-1], 1 - cosine)


@given(seed=st.integers(0, 50), solver=st.sampled_from(SOLVER_NAMES))
def test_rotating_the_space_rotates_the_prototypes(seed: int, solver: str) -> None:
    features, text, _ = clustered(pixels=60, seed=seed)
    R = rotation(12, seed)
    options = {"solver": solver, "lr": 0.02, "iterations": 10, "tolerance": 0}
    W = learn_vision_prototypes(features, text, **options)
    rotated = learn_vision_prototypes(features @ R, text @ R, **options)
    torch.testing.assert_close(rotated, W @ R, atol=1e-7, rtol=0)


@given(seed=st.integers(0, 50), solver=st.sampled_from(SOLVER_NAMES))
def test_the_order_of_pixels_and_classes_does_not_matter(seed: int, solver: str) -> None:
    features, text, _ = clustered(pixels=60, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(5, generator=generator)
    pixels = torch.randperm(60, generator=generator)
    options = {"solver": solver, "lr": 0.02, "iterations": 10, "tolerance": 0}
    W = learn_vision_prototypes(features, text, **options)
    permuted = learn_vision_prototypes(features[pixels], text[classes], **options)
    torch.testing.assert_close(permuted, W[classes], atol=1e-7, rtol=0)


@given(chunk_size=st.integers(1, 70), solver=st.sampled_from(SOLVER_NAMES))
def test_the_chunk_size_does_not_matter(chunk_size: int, solver: str) -> None:
    features, text, _ = clustered(pixels=60)
    options = {"solver": solver, "lr": 0.02, "iterations": 10, "tolerance": 0}
    whole = learn_vision_prototypes(features, text, chunk_size=60, **options)
    chunked = learn_vision_prototypes(features, text, chunk_size=chunk_size, **options)
    torch.testing.assert_close(chunked, whole, atol=1e-7, rtol=0)


def test_a_stream_gives_what_memory_gives() -> None:
    features, text, labels = clustered(pixels=90)
    weights = torch.linspace(0, 1, 90, dtype=torch.float64)
    expected = learn_vision_prototypes(
        features, text, targets=labels, weights=weights, chunk_size=32, iterations=20
    )
    chunks = [
        PixelChunk(features[rows], labels[rows], weights[rows])
        for rows in torch.arange(90).split(40)
    ]
    for source in (chunks, iter(chunks)):
        got = learn_vision_prototypes(source, text, chunk_size=32, iterations=20)
        torch.testing.assert_close(got, expected, atol=1e-7, rtol=0)


def test_a_re_iterable_is_read_anew_each_pass_and_never_held() -> None:
    features, text, _ = clustered(pixels=64)

    class Disk:
        alive = 0
        most_alive = 0
        opened = 0

        def __iter__(self):
            Disk.opened += 1
            for start in range(0, 64, 16):
                yield features[start : start + 16].clone()

    fit = fit_vision_prototypes(Disk(), text, iterations=3, tolerance=0)
    in_memory = learn_vision_prototypes(features, text, iterations=3, tolerance=0)
    torch.testing.assert_close(fit.prototypes, in_memory, atol=1e-7, rtol=0)
    assert Disk.opened >= fit.passes


def test_row_lengths_do_not_matter() -> None:
    features, text, _ = clustered()
    lengths = torch.linspace(0.1, 30, len(features), dtype=torch.float64)[:, None]
    W = learn_vision_prototypes(features, text, iterations=20)
    torch.testing.assert_close(
        learn_vision_prototypes(features * lengths, text * 7, iterations=20), W, atol=1e-7, rtol=0
    )


def test_a_weight_is_a_repeat_and_the_ignore_index_is_weight_zero() -> None:
    features, text, labels = clustered(pixels=40)
    counts = torch.arange(40) % 3
    repeated = learn_vision_prototypes(
        features.repeat_interleave(counts, 0),
        text,
        targets=labels.repeat_interleave(counts),
        iterations=15,
    )
    weighted = learn_vision_prototypes(
        features, text, targets=labels, weights=counts.double(), iterations=15
    )
    torch.testing.assert_close(weighted, repeated, atol=1e-7, rtol=0)
    ignored = learn_vision_prototypes(
        features,
        text,
        targets=labels.where(counts > 0, 255),
        weights=counts.double(),
        iterations=15,
    )
    torch.testing.assert_close(ignored, repeated, atol=1e-7, rtol=0)


def test_the_threshold_hardens_the_rows_above_it() -> None:
    features, text, _ = clustered()
    soft = (features @ text.T / 0.05).softmax(1)
    hard = soft.clone()
    sure = soft.max(1).values > 0.4
    hard[sure] = F.one_hot(soft.argmax(1), 5).double()[sure]
    assert 0 < sure.sum() < len(sure)
    torch.testing.assert_close(
        learn_vision_prototypes(features, text, targets=soft, threshold=0.4, iterations=15),
        learn_vision_prototypes(features, text, targets=hard, iterations=15),
        atol=1e-7,
        rtol=0,
    )


def test_label_masks_keep_eq_5_to_the_classes_present() -> None:
    features, text, labels = clustered()
    present = F.one_hot(labels, 5).bool() | (torch.arange(5) == 0)
    target = (features @ text.T / 0.01).masked_fill(~present, -torch.inf).softmax(1)
    torch.testing.assert_close(
        learn_vision_prototypes(features, text, label_masks=present, iterations=15),
        learn_vision_prototypes(features, text, targets=target, iterations=15),
        atol=1e-7,
        rtol=0,
    )


def test_class_regularization_sees_the_pixels_through_their_class_masses_alone() -> None:
    features, text, labels = clustered()
    options = {"regularization": "class", "targets": labels, "tau_T": 0.5, "iterations": 30}
    W = learn_vision_prototypes(features, text, **options)
    other = learn_vision_prototypes(features.flip(1), text, **options)
    torch.testing.assert_close(W, other)
    assert not torch.allclose(W, text, atol=1e-3)


def test_the_ball_lets_norms_fall_below_one_and_never_above() -> None:
    features, text, _ = clustered()
    # Targets this soft take logits smaller than unit rows give at tau_I.
    options = {"tau_T": 1.0, "iterations": 300}
    fit = fit_vision_prototypes(features, text, constraint="ball", lr=0.02, **options)
    norms = fit.prototypes.norm(dim=1)
    assert norms.max() <= 1 + 1e-12
    assert norms.min() < 0.999
    on_sphere = fit_vision_prototypes(features, text, **options)
    assert fit.losses[-1] < on_sphere.losses[-1]


def test_the_callback_sees_every_iterate_and_can_stop() -> None:
    features, text, _ = clustered()
    seen = []

    def stop_at_third(iterate):
        seen.append(iterate)
        return iterate.iteration == 2

    fit = fit_vision_prototypes(features, text, callback=stop_at_third, tolerance=0)
    assert fit.stop_reason == "callback"
    assert [iterate.iteration for iterate in seen] == [0, 1, 2]
    assert torch.equal(seen[-1].prototypes, fit.prototypes)
    assert torch.equal(torch.stack([iterate.loss for iterate in seen]), fit.losses)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_float32(dtype: torch.dtype) -> None:
    features, text, _ = clustered()
    half, text = features.to(dtype), text.float()
    W = learn_vision_prototypes(half, text, iterations=30)
    assert W.dtype == torch.float32
    torch.testing.assert_close(W, learn_vision_prototypes(half.float(), text, iterations=30))
    assert learn_vision_prototypes(half, text.to(dtype), iterations=3).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = learn_vision_prototypes(half, text, iterations=30)
    assert torch.equal(inside, W)


def test_gradients_do_not_flow_and_inputs_stay_as_they_were() -> None:
    features, text, _ = clustered()
    text.requires_grad_()
    before = features.clone(), text.detach().clone()
    W = learn_vision_prototypes(features, text, iterations=5)
    assert not W.requires_grad
    assert torch.equal(features, before[0])
    assert torch.equal(text.detach(), before[1])


@pytest.mark.parametrize(
    ("dtype", "ignore_index"), [(torch.uint8, 1004), (torch.int16, -1), (torch.int32, 1004)]
)
def test_targets_of_narrow_dtypes_are_the_classes_they_name(
    dtype: torch.dtype, ignore_index: int
) -> None:
    # 1004 is 236 in uint8, and 300 classes are 44.
    features, _, _ = clustered(pixels=60)
    text = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(60) * 2 + 120
    options = {"ignore_index": ignore_index, "iterations": 5}
    torch.testing.assert_close(
        learn_vision_prototypes(features, text, targets=labels.to(dtype), **options),
        learn_vision_prototypes(features, text, targets=labels, **options),
    )


def test_numbers_of_numpy_are_numbers() -> None:
    features, text, labels = clustered()
    torch.testing.assert_close(
        learn_vision_prototypes(
            features,
            text,
            np.float32(0.5),
            targets=labels,
            threshold=np.float32(0.25),
            iterations=np.int64(5),
        ),
        learn_vision_prototypes(features, text, 0.5, targets=labels, threshold=0.25, iterations=5),
    )


@pytest.mark.parametrize("weight", [1e38, 1e-42, 1.5e-45])
@pytest.mark.parametrize("streamed", [False, True])
def test_weights_at_the_ends_of_float32_count_by_their_ratios(
    weight: float, streamed: bool
) -> None:
    features, text, labels = (
        part.float() if part.is_floating_point() else part for part in clustered(pixels=5000)
    )
    weights = torch.full((5000,), weight)
    # What does not count must not set the scale either.
    labels[7], weights[7] = 255, 1e38
    source = [PixelChunk(features, labels, weights)] if streamed else features
    beside = {} if streamed else {"targets": labels, "weights": weights}
    W = learn_vision_prototypes(source, text, iterations=20, **beside)
    moderate = torch.frexp(weights.double())[0]
    expected = learn_vision_prototypes(
        features, text, targets=labels, weights=moderate, iterations=20
    )
    torch.testing.assert_close(W, expected, atol=0, rtol=0)
    # Without weights the sums are in float32, and differ with the number of threads.
    unweighted = learn_vision_prototypes(features, text, targets=labels, iterations=20)
    torch.testing.assert_close(W, unweighted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("tau_I", [0.03, 1.0, 10.0, 100.0])
def test_the_tolerance_is_a_share_of_the_gradients_scale(tau_I: float) -> None:
    features, text, labels = clustered()
    fit = fit_vision_prototypes(features, text, tau_I, targets=labels)
    assert fit.stop_reason == "tolerance"
    assert len(fit.losses) > 4
    W = fit.prototypes
    residual = (features @ W.T / tau_I).softmax(1) - F.one_hot(labels, 5)
    gradient = residual.T @ features / len(features)
    tangent = gradient - (gradient * W).sum(1, keepdim=True) * W
    assert tangent.norm() <= 3e-4 * (1 + 1e-9)


@pytest.mark.parametrize("extreme", [{"tau_I": 1e-40}, {"tau_T": 1e-40}])
def test_prototypes_that_are_not_finite_are_never_returned(extreme: dict) -> None:
    features, text, _ = clustered()
    with pytest.raises(FloatingPointError, match="too extreme for float32"):
        learn_vision_prototypes(features.float(), text.float(), iterations=3, **extreme)


def test_a_source_that_can_be_read_only_once_is_told_from_a_stream() -> None:
    features, text, _ = clustered()

    class OneShot:
        def __init__(self) -> None:
            self.chunks = iter([features])

        def __iter__(self):
            return self.chunks

    with pytest.raises(ValueError, match="features yields no chunk when it is read again"):
        learn_vision_prototypes(OneShot(), text)


def test_both_functions_take_the_same_options_each_of_a_type() -> None:
    learn, fit = (
        inspect.signature(function).parameters
        for function in (learn_vision_prototypes, fit_vision_prototypes)
    )
    assert learn == fit
    assert all(option.kind is not option.VAR_KEYWORD for option in fit.values())
    assert all("Any" not in option.annotation for option in fit.values())


def test_an_iteration_of_apgd_waits_for_the_device_once() -> None:
    features, text, _ = clustered()

    class Reads(TorchDispatchMode):
        """Counts numbers read on the host."""

        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    def reads(iterations: int, tolerance: float) -> tuple[int, int]:
        lists = []
        with Reads() as single, pytest.MonkeyPatch.context() as patch:
            tolist = torch.Tensor.tolist
            patch.setattr(torch.Tensor, "tolist", lambda t: lists.append(1) or tolist(t))
            fit = fit_vision_prototypes(
                features, text, iterations=iterations, tolerance=tolerance, anchor=0.1
            )
        assert fit.stop_reason == "iterations"
        return single.count + len(lists), fit.passes

    for tolerance in (0.0, 1e-12):
        few, few_passes = reads(3, tolerance)
        many, many_passes = reads(30, tolerance)
        assert many - few == many_passes - few_passes


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_cuda_gives_what_the_cpu_gives(cuda: torch.device, dtype: torch.dtype, solver: str) -> None:
    features, text, _ = clustered(pixels=2000, dim=64)
    features, text = features.to(dtype), text.float()
    options = {"solver": solver, "lr": 0.05, "iterations": 30, "tolerance": 0}
    on_cpu = learn_vision_prototypes(features, text, **options)
    on_cuda = learn_vision_prototypes(features.to(cuda), text.to(cuda), **options)
    assert on_cuda.device.type == "cuda"
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=2e-4, rtol=0)


X, Z, LABELS = (part.float() if part.is_floating_point() else part for part in clustered(20))
ZERO_ROW = X.clone()
ZERO_ROW[3] = 0
NAN_ROW = X.clone()
NAN_ROW[4, 1] = torch.nan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": X[0]}, r"features must have rank 2.*rank 1.*\(12,\)"),
        ({"features": X.long()}, r"features must be floating point.*int64"),
        ({"features": 3}, "features must be .* tensor, or an iterable.*got a int"),
        ({"features": X[:0]}, "features is empty"),
        ({"features": []}, "features is empty: the iterable yields no chunk"),
        ({"features": [X, "x"]}, r"features.*got a str \(chunk 1\)"),
        ({"features": [X, X[:, :5]]}, r"features \(chunk 1\) and text_protos.*D = 5 and D = 12"),
        ({"features": X[:, :7]}, "same number of columns D; got D = 7 and D = 12"),
        ({"features": ZERO_ROW}, "non-zero norm.*row 3 is all zeros"),
        ({"features": X * 1e-15}, "non-zero norm.*row 0 has the norm 1e-15"),
        ({"features": X * 1e25}, r"rows of norm 1e\+12 at most; row 0 has the norm 1e\+25"),
        ({"text_protos": Z * 1e25}, "text_protos must have rows of norm .* at most; row 0"),
        ({"features": NAN_ROW, "chunk_size": 3}, "finite; row 4 holds NaN"),
        ({"features": torch.zeros(20, 12, device="meta")}, "one device; got meta and cpu"),
        ({"text_protos": Z[:1]}, r"text_protos has 1 row\(s\); it takes at least 2"),
        ({"text_protos": [[1.0]]}, "text_protos must be a torch.Tensor of rank 2; got a list"),
        (
            {"text_protos": Z * torch.tensor([[0.0]] + [[1.0]] * 4)},
            "text_protos.*row 0 is all zeros",
        ),
        ({"tau_I": 0.0}, r"tau_I must be a finite number above 0; got 0.0"),
        ({"tau_I": float("nan")}, "tau_I must be a finite number above 0; got nan"),
        ({"anchor": -0.1}, "anchor must be a finite number, 0 or more; got -0.1"),
        ({"tau_T": -1.0}, "tau_T must be .* above 0; got -1.0"),
        ({"lr": 0}, "lr must be .* above 0; got 0"),
        ({"tolerance": -1e-3}, "tolerance must be .* 0 or more; got -0.001"),
        ({"iterations": 0}, "iterations must be a whole number, 1 or more; got 0"),
        ({"iterations": 2.5}, "iterations must be a whole number, 1 or more; got 2.5"),
        ({"chunk_size": -4}, "chunk_size must be a whole number, 1 or more; got -4"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\]; got 1.5"),
        ({"solver": "sgd"}, "unknown solver 'sgd'; these exist: 'apgd', 'pgd', 'pgd_halving'"),
        ({"constraint": "cube"}, "unknown constraint 'cube'; these exist: 'sphere', 'ball'"),
        ({"regularization": "x"}, "unknown regularization 'x'; these exist: 'instance', 'class'"),
        ({"ignore_index": None}, "ignore_index must be a whole number; got None"),
        ({"targets": LABELS.where(LABELS > 0, -1).to(torch.int8)}, "targets must be .* is -1"),
        ({"ignore_index": 2}, "ignore_index 2 is one of the 5 classes"),
        ({"targets": LABELS[:7]}, r"targets must be integer class indices of shape \(20,\)"),
        ({"targets": LABELS.bool()}, "targets must be integer class indices"),
        ({"targets": torch.zeros(20, 4)}, r"probabilities of shape \(20, 5\); got .*\(20, 4\)"),
        ({"targets": LABELS + 1}, r"targets must be class indices in \[0, 4\].*is 5"),
        ({"targets": torch.ones(20, 5)}, "probabilities.*row 0 has range .* sum 5"),
        ({"targets": torch.full((20,), 255)}, "every pixel is ignored"),
        ({"weights": torch.ones(3)}, r"weights must be floating point of shape \(20,\)"),
        ({"weights": -torch.ones(20)}, "weights must be finite and not negative"),
        ({"weights": torch.zeros(20)}, "every pixel is ignored"),
        (
            {"label_masks": torch.ones(20, 5)},
            r"label_masks must be a bool tensor of shape \(20, 5\)",
        ),
        ({"label_masks": torch.zeros(20, 5).bool()}, "label_masks must allow.*row 0 allows none"),
        (
            {"label_masks": torch.ones(20, 5).bool(), "targets": LABELS},
            "label_masks restrict .* give one of the two",
        ),
        ({"features": [X], "targets": LABELS}, "targets must travel with the features"),
    ],
)
def test_bad_input_is_named(arguments: dict, message: str) -> None:
    calls = []
    call = {"features": X, "text_protos": Z, "callback": calls.append} | arguments
    with pytest.raises((ValueError, TypeError), match=message):
        learn_vision_prototypes(**call)
    assert not calls
