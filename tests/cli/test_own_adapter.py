"""One file outside the package adds a data set, or an adapter; the commands take both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.adapters.photos.data_set import DATASETS
from vpl_plugin.cli import clip_es
from vpl_plugin.cli.main import main
from vpl_plugin.experiments.demo.photos import demo_photos

DATA_SET = '''
from pathlib import Path
from vpl_plugin.adapters.photos.data_set import DATASETS, DataSet
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.clip import ClassNames

PETS = ClassNames("pets", ("cat", "motorbike"), ("cat", "motorbike"), ("grass", "floor"))


def pet_photos(root: Path, suffix: str = ".png") -> PhotoSet:
    """Photos whose file names are their labels.

    Args:
        root: the folder.
        suffix: of the photos
            that count.
    """
    files = sorted(root.glob(f"*{suffix}"))
    photos = [SetPhoto(path.stem, path, tuple(PETS.indices([path.stem])), None) for path in files]
    return PhotoSet(PETS, photos, {})


@DATASETS.register("pets")
class Pets(DataSet):
    """Pets."""

    photos = staticmethod(pet_photos)

    @staticmethod
    def of_split(split):
        return {"suffix": split}
'''
ADAPTER = '''
from dataclasses import dataclass, replace
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stages.cams import CAMs
from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.adapters.methods.clip_es import ClipES
from vpl_plugin.adapters.pipeline.run import StageEntry


@dataclass(frozen=True)
class SquaredSettings(Settings):
    """CLIP-ES's.

    Attributes:
        exponent: of the CAMs.
    """

    exponent: float = 2.0


class SquaredCAMs(CAMs):
    """CLIP-ES's CAMs to a power."""

    def own(self, run):
        exponent = run.settings.exponent

        def step(cams, features, attention, classes):
            return cams._replace(raw=cams.raw**exponent, refined=cams.refined**exponent)

        return super().own(run)._replace(step=step, settings={"exponent": exponent})


@ADAPTERS.register("squared")
class Squared(ClipES):
    """CLIP-ES with squared CAMs."""

    description = "CLIP-ES with squared CAMs."
    output = "vpl_squared"
    stages = {**ClipES.stages, "cams": StageEntry("squared CAMs", "toy_adapter:SquaredCAMs")}
    settings = SquaredSettings
'''
ENTRY_POINTS = """
[vpl_plugin.datasets]
pets = toy_data_set:Pets

[vpl_plugin.adapters]
squared = toy_adapter:Squared
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with both; the registries forget it afterwards."""
    folder = tmp_path / "site"
    metadata = folder / "toy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "toy_data_set.py").write_text(DATA_SET)
    (folder / "toy_adapter.py").write_text(ADAPTER)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name, registry, entry in (
        ("toy_data_set", DATASETS, "pets"),
        ("toy_adapter", ADAPTERS, "squared"),
    ):
        sys.modules.pop(name, None)
        registry._entries.pop(entry, None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for item in demo_photos():
        if item.name in ("cat", "motorbike"):
            item.photo.reduce(6).save(folder / f"{item.name}.png")
    (folder / "cat.webp").write_bytes(b"of another suffix")
    return folder


def test_a_data_set_of_ones_own(
    package: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--dataset", "pets", "--root", str(photos), "--device", "cpu", "--workers", "1"]
    assert clip_es.main(["all", *data, "--output", str(tmp_path / "out")]) == 0
    assert read_cams(tmp_path / "out/vision/cams/cat.npz").classes == (0,)
    assert len(list((tmp_path / "out/vision/masks").glob("*.png"))) == 2
    # Its own option, with its default and help, in this and in other commands.
    assert clip_es.main(["seeds", *data, "--suffix", ".gif", "--output", str(tmp_path)]) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        clip_es.main(["seeds", "--dataset", "pets", "--help"])
    assert "of the photos that count (default: .png)" in " ".join(capsys.readouterr().out.split())
    masks = ["--masks", str(tmp_path / "out/vision/masks")]
    prototypes = ["--prototypes", str(tmp_path / "out/prototypes/prototypes.safetensors")]
    shape = ["--width", "32", "--layers", "1", "--heads", "2", "--crop", "64"]
    short = ["--iterations", "1", "--batch-size", "2", "--output", str(tmp_path / "decoder")]
    data = ["--dataset", "pets", "--root", str(photos), "--device", "cpu", "--train", ".png"]
    assert main(["train", *data, *masks, *prototypes, *shape, *short]) == 0


def test_an_adapter_of_ones_own(
    package: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--dataset", "folder", "--root", str(photos), "--classes", "cat,motorbike"]
    (tmp_path / "labels.csv").write_text("photo,labels\ncat.png,cat\nmotorbike.png,motorbike\n")
    work = ["--labels", str(tmp_path / "labels.csv"), "--device", "cpu", "--workers", "1"]
    for name, options in (("squared", ("--exponent", "3")), ("clip_es", ())):
        output = ["--output", str(tmp_path / name)]
        assert main(["run", name, "all", *data, *work, *output, *options]) == 0
    own, plain = (
        read_cams(tmp_path / name / "vision/cams/cat.png.npz").refined
        for name in ("squared", "clip_es")
    )
    assert (own - plain**3).abs().max() < 1e-6
    # Its settings keep its results apart, too.
    output = ["--output", str(tmp_path / "squared")]
    assert main(["run", "squared", "cams", *data, *work, *output]) == 2
    assert "exponent was 3.0, is 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "squared", "cams", "--help"])
    assert "--exponent EXPONENT of the CAMs (default: 2.0)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_what_there_is_not_is_named(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "squard", "all"]) == 2
    told = capsys.readouterr().err
    assert "unknown adapter 'squard'; these exist: 'clip_cpal', 'clip_es', 'squared'" in told
    assert clip_es.main(["seeds", "--dataset", "pest", "--root", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "unknown dataset 'pest'; these exist: 'coco', 'folder', 'voc', 'pets'" in told


def test_installed_names_are_listed_without_loading_them(package: Path) -> None:
    code = "import sys; from vpl_plugin.adapters.photos.data_set import DATASETS; "
    code += "from vpl_plugin.adapters.methods import ADAPTERS; print(*DATASETS, *ADAPTERS); "
    code += "print('torch' in sys.modules, 'toy_adapter' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    names, loaded = done.stdout.splitlines()
    assert names.split() == ["coco", "folder", "voc", "pets", "clip_cpal", "clip_es", "squared"]
    assert loaded == "False False"
