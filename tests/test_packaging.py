"""Wheel and sdist hold what an installation needs, with adapters/ as vpl_plugin.adapters."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = [
    "vpl_plugin/py.typed",
    "vpl_plugin/core/solvers/apgd.py",
    "vpl_plugin/adapters/__init__.py",
    "vpl_plugin/adapters/clip_es/cams.py",
    "vpl_plugin/clip/weights/mini_clip.safetensors",
    "vpl_plugin/clip/weights/MODEL_CARD.md",
    "vpl_plugin/experiments/demo/templates/demo.html",
    *(f"vpl_plugin/plots/templates/explorer.{suffix}" for suffix in ("html", "css", "js")),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built from a copy of what git tracks or would."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the project is not known here")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    folder = tmp_path_factory.mktemp("dist")
    for kind in ("wheel", "sdist"):
        build = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
        # A process each: one build leaves its command line to the next.
        subprocess.run(
            [sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True
        )
    return folder


def test_the_wheel_holds_every_package_and_data_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in NEEDED if name not in names] == []
    top = {name.split("/")[0] for name in names}
    assert len(top) == 2, "an import name beside vpl_plugin would shadow another package"
    assert wheel.stat().st_size < 30e6


def test_the_sdist_holds_the_sources(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "adapters/clip_es/cams.py"} <= names
    assert "vpl_plugin/clip/weights/mini_clip.safetensors" in names
    # README's commands and links, and whatever the tests need.
    assert {"Makefile", "tests/cli/conftest.py", "docs/images/demo.png"} <= names
    assert {"mkdocs.yml", "docs/site/hooks.py"} <= names
    assert {"examples/learn_prototypes.ipynb", "benchmarks/solvers.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_installed_wheel_works_from_another_folder(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import vpl_plugin, vpl_plugin.adapters.clip_es as adapter;"
        "from vpl_plugin.clip.mini import load_mini;"
        "count = sum(p.numel() for p in load_mini().parameters());"
        "print(vpl_plugin.__file__, adapter.__file__, count)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    package, adapter, parameters = result.stdout.split()
    assert Path(package).is_relative_to(tmp_path)
    assert Path(adapter).is_relative_to(tmp_path)
    assert int(parameters) > 12_000_000
