"""The stages as Python functions: streaming, subsampling, and parity with upstream's own output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vpl_plugin import fit_vision_prototypes
from vpl_plugin.adapters.clip_es import encode_photo, photo_cams, stages
from vpl_plugin.adapters.clip_es.stage_files import (
    StoredSeeds,
    read_cams,
    read_seeds,
    write_seeds,
)
from vpl_plugin.adapters.clip_es.stages import photo_batches
from vpl_plugin.adapters.clip_es.stages.photo_batches import plan_batches
from vpl_plugin.adapters.datasets import PhotoSet, SetPhoto, folder_photos, voc_photos
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip import VOC, ClipModel, VisionTokens, class_prototypes, open_photo
from vpl_plugin.core.pixels import PixelChunk
from vpl_plugin.distributed import Ranks
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import (
    read_mask,
    resize_cams,
    seed_classes,
    seed_targets,
    targets_from_seeds,
)
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

N = len(VOC.labels)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    """Four small photographs, two of one size."""
    root = tmp_path_factory.mktemp("photos")
    lines = ["photo,labels"]
    for item in demo_photos()[:3]:
        item.photo.reduce(5).save(root / f"{item.name}.jpg")
        lines.append(f"{item.name}.jpg,{item.labels[0]}")
    demo_photos()[1].photo.reduce(5).rotate(180).save(root / "upside_down.png")
    lines.append("upside_down.png,cat;person")
    table = root / "labels.csv"
    table.write_text("\n".join(lines))
    return folder_photos(root, VOC, table)


def test_seeds_are_those_of_the_pipeline_in_memory(
    mini: ClipModel, photos: PhotoSet, tmp_path: Path
) -> None:
    settings = stages.Settings(tmp_path, pixels_per_photo=None, workers=2, batch_size=3)
    failures: dict[Path, str] = {}
    stages.Seeds().run(Run(photos, settings, mini, failures))
    assert failures == {}
    text = class_prototypes(mini, VOC)
    for item in photos.photos:
        encoded = encode_photo(mini, open_photo(item.photo), item.classes)
        refined = photo_cams(mini, encoded, text).refined
        stored = read_seeds(tmp_path / "seeds" / f"{item.name}.npz")
        assert stored.grid == encoded.tokens.grid
        np.testing.assert_allclose(stored.features, encoded.features, rtol=0, atol=1e-3)
        expected = seed_targets(refined, item.classes, encoded.features, text)
        compact = torch.from_numpy(stored.seeds).long()
        ours = targets_from_seeds(compact, encoded.features, text)
        torch.testing.assert_close(ours, expected)


def test_a_subsample_is_part_of_all_pixels_and_the_same_each_time(
    mini: ClipModel, photos: PhotoSet, tmp_path: Path
) -> None:
    def run(name: str, **options: int | None) -> StoredSeeds:
        settings = stages.Settings(tmp_path / name, workers=1, **options)
        stages.Seeds().run(Run(photos, settings, mini))
        return read_seeds(settings.seeds / "cat.jpg.npz")

    every, some, again = (
        run("a", pixels_per_photo=None),
        *(run(name, pixels_per_photo=7) for name in "bc"),
    )
    other = run("d", pixels_per_photo=7, seed=1)
    assert len(every.seeds) == every.grid[0] * every.grid[1]
    assert len(some.seeds) == 7
    np.testing.assert_array_equal(every.features[some.pixels], some.features)
    np.testing.assert_array_equal(every.seeds[some.pixels], some.seeds)
    np.testing.assert_array_equal(some.pixels, again.pixels)
    assert not np.array_equal(some.pixels, other.pixels)


def test_learning_from_disk_equals_learning_in_memory(
    mini: ClipModel, photos: PhotoSet, tmp_path: Path
) -> None:
    settings = stages.Settings(tmp_path, workers=2, iterations=40)
    stages.Seeds().run(Run(photos, settings, mini))
    stages.Learn().run(Run(photos, settings))
    held = Prototypes.load(settings.learned / "prototypes.safetensors")
    learned, about = held.rows, held.about
    text = class_prototypes(mini, VOC)
    stored = [read_seeds(settings.seeds / f"{item.name}.npz") for item in photos.photos]
    features = torch.from_numpy(np.concatenate([item.features for item in stored])).float()
    features = torch.nn.functional.normalize(features, dim=1)
    seeds = torch.from_numpy(np.concatenate([item.seeds for item in stored])).long()
    targets = targets_from_seeds(seeds, features, text)
    fit = fit_vision_prototypes(
        features, text.rows, targets=targets, anchor=settings.anchor, iterations=40
    )
    torch.testing.assert_close(learned, fit.prototypes, rtol=0, atol=1e-5)
    assert about["loss"] == pytest.approx(float(fit.losses[-1]), rel=1e-5)
    assert about["photos"] == 4


@pytest.mark.parametrize("held_bytes", [0, 64 * 3 * (8 * 2 + 2), 10**6])
def test_every_pass_gives_the_same_pixels_whatever_is_held(tmp_path: Path, held_bytes: int) -> None:
    text = Prototypes(torch.nn.functional.normalize(torch.randn(5, 8), dim=1), ("a", "b"))
    generator = np.random.default_rng(0)
    files = []
    for number in range(130):
        files.append(tmp_path / f"{number}.npz")
        features = generator.normal(size=(3, 8)).astype(np.float16)
        seeds = np.array([number % 2, -1, 1], np.int16)
        write_seeds(files[-1], StoredSeeds(features, seeds, np.arange(3, dtype=np.int32), (1, 3)))
    stream = stages.SeedStream(files, text, workers=2, held_bytes=held_bytes)
    first, second = (list(stream) for _ in range(2))
    assert [len(chunk.features) for chunk in first] == [192, 192, 6]
    assert all(isinstance(chunk, PixelChunk) for chunk in first)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.features, b.features)
        assert torch.equal(a.targets, b.targets)
    assert first[0].targets[:6].argmax(dim=1)[[0, 3]].tolist() == [0, 1]
    # What is not held is read anew, so that a file broken meanwhile is noticed.
    held = {0: 0, 10**6: 3}.get(held_bytes, 1)
    for number, file in enumerate(files[::64]):
        whole = file.read_bytes()
        file.write_bytes(whole[:50])
        if number < held:
            assert len(list(stream)) == 3
        else:
            with pytest.raises(ValueError, match=rf"{file.name} is broken"):
                list(stream)
        file.write_bytes(whole)


def test_no_map_exceeds_the_threshold() -> None:
    cams = torch.tensor([[[0.4, 0.5]], [[0.1, 0.6]]])
    assert seed_classes(cams, (3, 9), 0.4).tolist() == [-1, 9]


def test_batches_share_a_grid_and_do_not_depend_on_what_is_done(photos: PhotoSet) -> None:
    batches = plan_batches(photos.photos, 16, 8, {})
    assert sorted(len(batch) for batch in batches) == [1, 1, 2]
    assert {item for batch in batches for item in batch} == {*photos.photos}
    assert all(len(batch) == 1 for batch in plan_batches(photos.photos, 16, 1, {}))
    failures: dict[Path, str] = {}
    gone = SetPhoto("gone", Path("gone.jpg"), (0,), None)
    assert plan_batches([gone], 16, 8, failures) == []
    assert list(failures) == [Path("gone.jpg")]


def test_ranks_share_the_photos_and_write_the_same_files(
    mini: ClipModel, photos: PhotoSet, tmp_path: Path
) -> None:
    together, apart = (stages.Settings(tmp_path / name, workers=1) for name in ("one", "two"))
    stages.Seeds().run(Run(photos, together, mini))
    for rank in range(2):
        stages.Seeds().run(Run(photos, apart, mini, ranks=Ranks(rank, 2)))
        done = len(list(apart.seeds.glob("*.npz")))
        assert done == 4 if rank else 0 < done < 4
    for item in photos.photos:
        name = f"{item.name}.npz"
        assert (apart.seeds / name).read_bytes() == (together.seeds / name).read_bytes()


FULL = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("full", FULL, ids=["process", "cuda", "cpu"])
def test_photos_that_do_not_fit_together_go_one_by_one(
    full: Exception,
    mini: ClipModel,
    photos: PhotoSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, tight = (
        stages.Settings(tmp_path / name, workers=1, batch_size=8) for name in ("whole", "tight")
    )
    stages.Seeds().run(Run(photos, whole, mini))
    genuine, sizes = photo_batches.token_cams, []

    def room_for_one(mini: ClipModel, tokens: VisionTokens, *rest: object, **options: object):  # type: ignore[no-untyped-def]
        sizes.append(len(tokens.tokens))
        if len(tokens.tokens) > 1:
            raise full
        return genuine(mini, tokens, *rest, **options)

    monkeypatch.setattr(photo_batches, "token_cams", room_for_one)
    failures: dict[Path, str] = {}
    stages.Seeds().run(Run(photos, tight, mini, failures))
    assert failures == {}
    assert sorted(sizes) == [1, 1, 1, 1, 2]
    assert caplog.text.count("memory does not hold 2 photos at once") == 1
    for item in photos.photos:
        alone, together = (
            read_seeds(settings.seeds / f"{item.name}.npz") for settings in (tight, whole)
        )
        np.testing.assert_allclose(alone.features, together.features, rtol=0, atol=1e-3)


@pytest.mark.parametrize("full", FULL, ids=["process", "cuda", "cpu"])
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
def test_a_photo_that_fills_the_memory_when_it_is_decoded_does_not_end_the_run(
    always: bool,
    full: Exception,
    mini: ClipModel,
    photos: PhotoSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = photos.photos[0].photo
    tried = []

    def opened(path: Path):  # type: ignore[no-untyped-def]
        if path == large:
            tried.append(path)
            if always or len(tried) == 1:
                raise full
        return open_photo(path)

    monkeypatch.setattr(photo_batches, "open_photo", opened)
    settings = stages.Settings(tmp_path, workers=2)
    failures: dict[Path, str] = {}
    stages.Seeds().run(Run(photos, settings, mini, failures))
    assert len(tried) == 2
    assert list(failures) == ([large] if always else [])
    assert all("no memory to decode it" in why for why in failures.values())
    assert len(list(settings.seeds.glob("*.npz"))) == (3 if always else 4)


def test_other_errors_of_a_thread_are_not_taken_for_a_full_memory(
    mini: ClipModel, photos: PhotoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(photo_batches, "open_photo", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        stages.Seeds().run(Run(photos, stages.Settings(tmp_path), mini))


def test_settings_are_checked() -> None:
    for wrong in (
        *({"batch_size": 0}, {"workers": 0}, {"threshold": 2.0}, {"tau_I": 0.0}),
        *({"iterations": 0}, {"tolerance": -1.0}, {"seed": -1}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            stages.Settings(Path("out"), **wrong)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Results.claim(tmp_path, {"a": 1, "b": (1, 2)})
    Results.claim(tmp_path, {"a": 1, "b": (1, 2)})
    (tmp_path / "result.npz").touch()
    with pytest.raises(ValueError, match=r"b was \[1, 2\], is None"):
        Results.claim(tmp_path, {"a": 1})


def test_a_folder_that_got_no_results_takes_other_settings(tmp_path: Path) -> None:
    Results.claim(tmp_path, {"iterations": 0})
    Results.claim(tmp_path, {"iterations": 9})
    assert Results(tmp_path).settings("learn") == {"iterations": 9}


def test_a_broken_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    for read in (lambda: Results.claim(tmp_path, {}), lambda: Results(tmp_path).settings("cams")):
        with pytest.raises(ValueError, match=r"run\.json is broken"):
            read()


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["text", "swapped"])
def test_parity_with_upstream(kind: str, mini: ClipModel, shared_dir: Path, tmp_path: Path) -> None:
    golden = np.load(shared_dir / "golden/clip_es.npz", allow_pickle=False)
    names = sorted({key.split("/")[1] for key in golden if key.startswith("crf/")})
    (tmp_path / "split.txt").write_text("\n".join(names))
    photos = voc_photos(shared_dir / "golden/voc", tmp_path / "split.txt")
    rows = torch.from_numpy(np.concatenate([golden[f"{kind}/fg"], golden[f"{kind}/bg"]]))
    Prototypes(rows, VOC.labels).save(tmp_path / "given.safetensors")
    settings = stages.Settings(
        tmp_path, prototypes=str(tmp_path / "given.safetensors"), parity=True, workers=1
    )
    failures: dict[Path, str] = {}
    stages.CAMs().run(Run(photos, settings, mini, failures))
    for name in names:
        cams = read_cams(settings.cams / f"{name}.npz")
        keys = golden[f"{kind}/{name}/keys"].tolist()
        assert list(cams.classes) == keys
        np.testing.assert_allclose(cams.raw, golden[f"{kind}/{name}/raw_cam"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            resize_cams(cams.refined, cams.size),
            golden[f"{kind}/{name}/refined_cam"].astype(np.float32),
            rtol=0,
            atol=2e-3,
        )
    if kind == "text":
        few = photos._replace(photos=photos.photos[:2])
        stages.Masks().run(Run(few, settings, mini, failures))
        for item in few.photos:
            for part, folder in (("pseudo_mask", settings.masks), ("label", settings.labels)):
                ours = read_mask(folder / f"{item.name}.png")
                assert (ours == golden[f"crf/{item.name}/{part}"]).mean() >= 0.999
    assert failures == {}
