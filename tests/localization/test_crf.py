from __future__ import annotations

import importlib.util
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vpl_plugin.localization import clip_es_photo, dense_crf
from vpl_plugin.localization.crf import kernel, mean_field, reference_backend

HAS_PYDENSECRF = importlib.util.find_spec("pydensecrf") is not None
needs_pydensecrf = pytest.mark.skipif(
    not HAS_PYDENSECRF, reason="compares with pydensecrf2, which is not installed"
)
BACKENDS = ["torch", pytest.param("pydensecrf", marks=needs_pydensecrf)]


@pytest.fixture
def empty_cache(monkeypatch):
    """Spatial kernels kept, none yet."""
    kept = type(kernel._kept)()
    monkeypatch.setattr(kernel, "_kept", kept)
    return kept


def two_halves(height=24, width=32):
    """A photo with one vertical edge, and a guess of it that is two columns off and noisy."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, width // 2 :] = 200
    right = np.full((height, width), 0.3, np.float32)
    right[:, width // 2 + 2 :] = 0.7
    right += np.random.default_rng(0).uniform(-0.15, 0.15, right.shape).astype(np.float32)
    return photo, np.stack([1 - right, right])


def smooth_maps(count, height, width, seed=0):
    """Maps such as CAMs are: an even background and blobs, summing to 1."""
    generator = torch.Generator().manual_seed(seed)
    small = 4 * torch.rand(1, count, max(1, height // 60), max(1, width // 60), generator=generator)
    small[:, 0] = 2
    maps = F.interpolate(small, (height, width), mode="bicubic").softmax(1)
    return maps[0].numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_follows_the_edge_of_the_photo(backend):
    photo, probabilities = two_halves()
    sharpened = dense_crf(photo, probabilities, backend=backend)
    assert sharpened.dtype == np.float32
    np.testing.assert_allclose(sharpened.sum(0), 1, atol=1e-5)
    edge = np.arange(32) >= 16
    assert (sharpened.argmax(0) == edge).all()
    assert (probabilities.argmax(0) != edge).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_reach_the_field(backend):
    photo, probabilities = two_halves()
    default = dense_crf(photo, probabilities, backend=backend)
    for name in (
        "iterations",
        "gaussian_sxy",
        "gaussian_compat",
        "bilateral_sxy",
        "bilateral_srgb",
        "bilateral_compat",
    ):
        changed = dense_crf(photo, probabilities, backend=backend, **{name: 2})
        assert not np.array_equal(default, changed), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only_and_flipped_photos_and_half_precision_are_fine(backend):
    photo, probabilities = two_halves()
    photo.flags.writeable = False
    plain = dense_crf(photo, probabilities, backend=backend)
    flipped = dense_crf(photo[..., ::-1], probabilities, backend=backend)
    np.testing.assert_array_equal(flipped, plain)
    half = dense_crf(photo, probabilities.astype(np.float16), backend=backend)
    np.testing.assert_allclose(half, plain, atol=1e-2)
    mirrored = dense_crf(photo[:, ::-1], probabilities[..., ::-1], backend=backend)
    assert (mirrored.argmax(0)[:, ::-1] == plain.argmax(0)).all()


def exact_mean_field(photo, probabilities, iterations=10):
    """The field by definition, all pairs of pixels, in float64."""
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    places = np.stack([x, y], 1).astype(float)
    colours = photo.reshape(-1, 3).astype(float)

    def gaussian(points):
        squares = ((points[:, None] - points) ** 2).sum(-1)
        values = np.exp(-squares / 2)
        scales = values.sum(1) ** -0.5
        return scales[:, None] * values * scales

    messages = 3 * gaussian(places)
    messages += 4 * gaussian(np.concatenate([places / 67, colours / 3], 1))
    scores = np.log(probabilities.clip(1e-5).reshape(len(probabilities), -1).astype(float))
    beliefs = np.exp(scores) / np.exp(scores).sum(0)
    for _ in range(iterations):
        total = scores + beliefs @ messages
        beliefs = np.exp(total - total.max(0))
        beliefs /= beliefs.sum(0)
    return beliefs.reshape(probabilities.shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_near_the_field_by_definition(backend):
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    probabilities = smooth_maps(3, 24, 30, seed=1)
    exact = exact_mean_field(photo, probabilities)
    ours = dense_crf(photo, probabilities, backend=backend)
    # The lattice is an approximation of the Gaussian.
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.98
    assert np.abs(ours - exact).mean() < 0.03


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(2, 6),
    kind=st.sampled_from(["noise", "flat", "blocks", "black"]),
    certain=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_and_photo_gives_probabilities(height, width, classes, kind, certain, seed):
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "flat":
        photo[:] = photo[0, 0]
    elif kind == "blocks":
        photo = photo // 128 * 128
    elif kind == "black":
        photo[:] = 0
    probabilities = rng.random((classes, height, width), np.float32)
    if certain:
        probabilities = (probabilities == probabilities.max(0)).astype(np.float32)
    sharpened = dense_crf(photo, probabilities)
    assert sharpened.shape == probabilities.shape
    assert np.isfinite(sharpened).all()
    assert (sharpened >= 0).all()
    np.testing.assert_allclose(sharpened.sum(0), 1, atol=1e-5)
    if HAS_PYDENSECRF:
        # Noise is near ties everywhere, where ten rounds enlarge rounding.
        once = dense_crf(photo, probabilities, iterations=1)
        theirs = dense_crf(photo, probabilities, iterations=1, backend="pydensecrf")
        np.testing.assert_allclose(once, theirs, atol=1e-3)


def test_what_is_even_stays_even():
    photo = np.full((9, 14, 3), 130, np.uint8)
    for classes in (2, 3, 5):
        even = np.full((classes, 9, 14), 0.5, np.float32)
        np.testing.assert_allclose(dense_crf(photo, even), 1 / classes, atol=1e-6)


def test_order_of_the_classes_does_not_matter():
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for classes in (2, 3, 4, 5):
        probabilities = smooth_maps(classes, 40, 48, seed=classes)
        order = rng.permutation(classes)
        moved = dense_crf(photo, probabilities[order])
        np.testing.assert_allclose(moved, dense_crf(photo, probabilities)[order], atol=1e-4)


def test_a_batch_gives_the_same_bits_as_its_photos(monkeypatch):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)
    photos[1] = photos[0] // 32 * 32
    photos[2] = 0
    probabilities = np.stack([smooth_maps(4, 20, 30, seed=seed) for seed in range(3)])
    single = [dense_crf(*pair) for pair in zip(photos, probabilities, strict=True)]
    np.testing.assert_array_equal(dense_crf(photos, probabilities), single)
    # On a GPU one lattice holds them all, which a CPU can do as well.
    module = sys.modules[mean_field.__module__]
    together = module._infer(
        torch.from_numpy(photos), torch.from_numpy(probabilities), module.CRFSettings()
    )
    np.testing.assert_allclose(together, single, atol=1e-4)
    if HAS_PYDENSECRF:
        theirs = dense_crf(photos, probabilities, backend="pydensecrf")
        np.testing.assert_allclose(theirs, single, atol=1e-3)


def test_the_same_bits_whatever_the_threads():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (220, 260, 3)).astype(np.uint8)
    probabilities = smooth_maps(4, 220, 260)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(dense_crf(photo, probabilities))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_spatial_lattices_are_kept_up_to_a_bound(empty_cache, monkeypatch):
    device = torch.device("cpu")

    def kernel_of(height, weight=3):
        return kernel.spatial_kernel(1, (height, 30), 1, weight, device)

    first = kernel_of(20)
    assert kernel_of(20) is first
    assert kernel_of(20, weight=2) is not first
    monkeypatch.setattr(kernel, "CACHE_BYTES", 6 * first.nbytes)
    kernels = []
    for height in range(20, 30):
        kernels.append(kernel_of(height))
        # Used all the time, so never dropped.
        assert kernel_of(20) is first
        assert sum(kept.nbytes for kept in empty_cache.values()) <= kernel.CACHE_BYTES
    assert kernel_of(29) is kernels[-1]
    assert kernel_of(21) is not kernels[1]
    # One that is larger than the bound is not kept, and works.
    large = kernel_of(200)
    assert large.nbytes > kernel.CACHE_BYTES
    assert not empty_cache


def test_threads_share_the_kept_lattices(empty_cache):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (15 + n % 3, 20, 3)).astype(np.uint8) for n in range(12)]
    maps = [smooth_maps(3, *photo.shape[:2]) for photo in photos]
    alone = [dense_crf(*pair) for pair in zip(photos, maps, strict=True)]
    empty_cache.clear()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(dense_crf, photos, maps))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(empty_cache) == 3


def test_neighbours_that_lose_their_slot_of_the_hash_table_are_found(monkeypatch):
    lattice = sys.modules[kernel.build_lattice.__module__]
    points = torch.rand(5, 4000, generator=torch.Generator().manual_seed(0)) * 6
    usual = lattice.build_lattice(points)
    assert (usual.neighbours[..., :-1] < usual.neighbours.shape[-1] - 1).any()
    # All keys in one slot: all but one are lost.
    monkeypatch.setattr(lattice, "_hash", lambda keys, size: torch.zeros_like(keys))
    crowded = lattice.build_lattice(points)
    assert all(torch.equal(*parts) for parts in zip(usual, crowded, strict=True))


def test_vertices_are_numbered_and_neighbours_see_each_other():
    lattice = sys.modules[kernel.build_lattice.__module__]
    simplices = sys.modules[lattice.enclosing_simplices.__module__]
    points = torch.rand(3, 300, generator=torch.Generator().manual_seed(0)) * 4
    keys, weights, _ = simplices.enclosing_simplices(points)
    built = lattice.build_lattice(points)
    count = built.neighbours.shape[-1] - 1
    assert built.vertices.unique().tolist() == list(range(count))
    numbered = {*zip(built.vertices.flatten().tolist(), keys.flatten().tolist(), strict=True)}
    assert len(numbered) == count
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-5)
    assert (weights > -1e-5).all()
    for axis, (before, after) in enumerate(built.neighbours.long()):
        for vertex in range(count):
            if after[vertex] < count:
                assert before[after[vertex]] == vertex
            if before[vertex] < count:
                assert after[before[vertex]] == vertex
        assert before[count] == after[count] == count, axis


@pytest.mark.shared
@needs_pydensecrf
def test_agrees_with_pydensecrf_on_photographs(shared_dir):
    files = sorted((shared_dir / "data/voc/JPEGImages").glob("*.jpg"))
    if not files:
        pytest.skip("no photographs in ../shared/data/voc")
    pixels = agreeing = 0
    for number, file in enumerate(files[:: len(files) // 20][:20]):
        with Image.open(file) as image:
            photo = np.array(image.convert("RGB"))
        probabilities = smooth_maps(2 + number % 5, *photo.shape[:2], seed=number)
        ours = dense_crf(photo, probabilities)
        theirs = dense_crf(photo, probabilities, backend="pydensecrf")
        assert np.abs(ours - theirs).max() < 1e-3, file.name
        pixels += photo.shape[0] * photo.shape[1]
        agreeing += int((ours.argmax(0) == theirs.argmax(0)).sum())
        # Some pixels changed hands, or nothing would be compared.
        assert (ours.argmax(0) != probabilities.argmax(0)).any()
    assert agreeing / pixels >= 0.9999


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(cuda):
    rng = np.random.default_rng(0)
    photos = np.kron(rng.integers(0, 256, (3, 5, 6, 3)), np.ones((1, 30, 30, 1))).astype(np.uint8)
    probabilities = np.stack([smooth_maps(4, 150, 180, seed=seed) for seed in range(3)])
    on_gpu = dense_crf(photos, probabilities, device=cuda)
    on_cpu = dense_crf(photos, probabilities)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)


@given(seed=st.integers(0, 2**32 - 1))
def test_clip_es_photo_wraps_around(seed):
    photo = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    result = clip_es_photo(photo)
    for channel, mean in enumerate((104.008, 116.669, 122.675)):
        shifted = np.trunc(photo[..., 2 - channel].astype(float) - mean)
        np.testing.assert_array_equal(result[..., channel], shifted % 256)


def test_missing_binding_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError, match=r'pip install "vpl_plugin\[crf\]".*C\+\+.*3\.13'):
        dense_crf(*two_halves(), backend="pydensecrf")
    # The default needs none.
    dense_crf(*two_halves())


def test_upstreams_own_backend_is_taken_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert reference_backend() == "torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pydensecrf")
    assert reference_backend() == "pydensecrf"


def test_the_backend_is_logged_once(caplog):
    sys.modules[dense_crf.__module__]._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        dense_crf(*two_halves())
        dense_crf(*two_halves())
    assert [record.message for record in caplog.records] == ["dense CRF: torch on cpu"]


def test_bad_input():
    photo, probabilities = two_halves()
    with pytest.raises(TypeError, match="photo must be a uint8 array"):
        dense_crf(photo.astype(np.float32), probabilities)
    with pytest.raises(TypeError, match="photo must be a uint8 array"):
        dense_crf(photo.tolist(), probabilities)
    with pytest.raises(ValueError, match=r"photo must have shape \(H, W, 3\)"):
        dense_crf(photo[..., 0], probabilities)
    with pytest.raises(ValueError, match=r"\(C, 24, 32\).*got \(2, 24, 31\)"):
        dense_crf(photo, probabilities[..., :-1])
    with pytest.raises(ValueError, match="C >= 2"):
        dense_crf(photo, probabilities[:1])
    with pytest.raises(TypeError, match="floating-point"):
        dense_crf(photo, probabilities.astype(int))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        dense_crf(photo, probabilities * 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        dense_crf(photo, probabilities * np.float32(np.nan))
    with pytest.raises(ValueError, match="iterations"):
        dense_crf(photo, probabilities, iterations=0)
    with pytest.raises(ValueError, match="bilateral_srgb"):
        dense_crf(photo, probabilities, bilateral_srgb=0)
    with pytest.raises(ValueError, match=r"bilateral_srgb must be at least 0\.125.*24 x 32"):
        dense_crf(photo, probabilities, bilateral_srgb=1e-3)
    with pytest.raises(ValueError, match="bilateral_sxy must be at least"):
        dense_crf(photo, probabilities, bilateral_sxy=1e-3)
    with pytest.raises(ValueError, match="gaussian_sxy must be at least"):
        dense_crf(photo, probabilities, gaussian_sxy=1e-5)
    with pytest.raises(ValueError, match=r"unknown backend 'numba'.*'torch', 'pydensecrf'"):
        dense_crf(photo, probabilities, backend="numba")
    with pytest.raises(ValueError, match="pydensecrf works on the cpu alone; got the device cuda"):
        dense_crf(photo, probabilities, backend="pydensecrf", device="cuda")
    with pytest.raises(ValueError, match=r"\(2, C, 24, 32\).*got \(2, 24, 32\)"):
        dense_crf(np.stack([photo, photo]), probabilities)
    with pytest.raises(ValueError, match="at least one photo"):
        dense_crf(photo[None][:0], probabilities[None][:0])


def test_the_smallest_settings_that_are_taken_work():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    photo[0, 0], photo[-1, -1] = 0, 255
    smallest = {"bilateral_srgb": 255 / 2**11, "bilateral_sxy": 64 / 2**11}
    sharpened = dense_crf(photo, smooth_maps(3, 64, 64), gaussian_sxy=64 / 2**16, **smallest)
    assert np.isfinite(sharpened).all()
