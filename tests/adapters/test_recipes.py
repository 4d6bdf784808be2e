"""Recipes, each on a stand-in for a checkout of its method, and what goes wrong with checkouts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit import UpstreamError, retrofit
from vpl_plugin.cli.main import main
from vpl_plugin.prototypes import Prototypes

HERE = Path(__file__).parent
LABELS = {"a": [0, 3], "b": [7], "c": [3, 5]}
# Which flags of a stand-in take the photos and the weights, and a file of its own.
FLAGS = {
    "weclip": ("--model_path", "clip/model.py"),
    "excel": ("--model", "utils/affutils.py"),
    "naclip": ("--backbone", "naclip.py"),
}
RECIPE = pytest.mark.parametrize("recipe", FLAGS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name in LABELS:
        coarse = noise.integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), 0).save(folder / f"{name}.jpg", quality=95)
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "weights.txt").write_text("3")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    def copied(recipe: str) -> Path:
        folder = tmp_path / "checkout"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / f"standin_{recipe}", folder, ignore=ignored)
        if recipe == "excel":
            (folder / "attributes").mkdir()
            bank = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
            torch.save(bank, folder / "attributes/bank.pth")
        return folder

    return copied


def flags_of(recipe: str, data: Path) -> list[str]:
    return ["--root", str(data), FLAGS[recipe][0], str(data / "weights.txt")]


def files(folder: Path) -> dict[str, bytes]:
    """What a method wrote."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(above.is_symlink() for above in (path, *path.parents))
    }
    own = ("vpl/", "libraries_as_they_were/")
    return {name: held for name, held in found.items() if not name.startswith(own)}


def content(checkout: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in checkout.rglob("*") if path.is_file()}


@RECIPE
def test_text_prototypes_change_nothing_and_vision_prototypes_do(
    recipe: str, checkout: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    root, flags = checkout(recipe), flags_of(recipe, data)
    before = content(root)
    words = [recipe, str(root), str(tmp_path / "own"), *flags]
    subprocess.run([sys.executable, str(HERE / "own_run.py"), *words], check=True)
    text = retrofit(recipe, root, tmp_path / "text", flags, prototypes="text")
    again = retrofit(recipe, root, tmp_path / "again", flags, prototypes=text.prototypes)
    own = files(tmp_path / "own")
    assert len(own) >= len(LABELS)
    assert files(text.output) == files(again.output) == own

    done = retrofit(recipe, root, tmp_path / "vision", flags)
    vision = files(done.output)
    assert vision.keys() == own.keys()
    assert {Path(name).stem for name in own if vision[name] != own[name]} >= {*LABELS}
    assert done.photos == 3
    held, shown = Prototypes.load(done.prototypes), Prototypes.load(text.prototypes)
    assert held.class_names == shown.class_names
    assert (held.temperature, shown.temperature) == (0.03, None)
    assert held.rows.shape == shown.rows.shape
    assert [file.name for file in (done.output / "vpl").iterdir()] == ["prototypes.safetensors"]
    assert content(root) == before


def test_rows_are_the_methods_own(
    checkout: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    flags = flags_of("naclip", data)
    done = retrofit("naclip", checkout("naclip"), tmp_path / "o", flags, prototypes="text")
    held = Prototypes.load(done.prototypes)
    # The background's two words come first in the checkout.
    expected = torch.randn(5, 16, generator=torch.Generator().manual_seed(5))
    expected = torch.nn.functional.normalize(expected, dim=1)
    assert held.class_names == ("cat", "person", "person in shirt")
    assert torch.equal(held.background, expected[:2])
    assert torch.equal(held.foreground, expected[2:])


def test_a_broken_photo_is_told_in_a_line_and_a_rerun_goes_on(
    checkout: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = "weclip"
    root, flags = checkout(recipe), flags_of(recipe, data)
    undisturbed = retrofit(recipe, root, tmp_path / "undisturbed", flags)
    whole = (data / "b.jpg").read_bytes()
    (data / "b.jpg").write_bytes(whole[: len(whole) // 2])
    words = ["retrofit", "--recipe", recipe, "--checkout", str(root)]
    words += ["--output", str(tmp_path / "out")]
    assert main([*words, "--", *flags]) == 1
    told = capfd.readouterr().err.rstrip().splitlines()[-1]
    assert "failed after 'a', before it was through with 'b': OSError" in told
    assert "runcated" in told
    assert "--traceback" in told
    (data / "b.jpg").write_bytes(whole)
    assert (tmp_path / "out/vpl/seeds/a.npz").exists()
    assert main([*words, "--", *flags]) == 0
    assert files(tmp_path / "out") == files(undisturbed.output)
    # In the second pass, too.
    (data / "c.jpg").write_bytes(whole[:100])
    given = ["--prototypes", str(undisturbed.prototypes)]
    words[-1] = str(tmp_path / "more")
    assert main([*words, *given, "--", *flags]) == 1
    assert "before it was through with 'c'" in capfd.readouterr().err
    (data / "c.jpg").write_bytes((tmp_path / "data" / "a.jpg").read_bytes())
    made = [tmp_path / "more" / name for name in files(tmp_path / "more")]
    first = {file: file.stat().st_mtime_ns for file in made}
    assert {file.stem for file in first} == {"a"}
    assert main([*words, *given, "--", *flags]) == 0
    assert {file: file.stat().st_mtime_ns for file in first} == first


def test_a_run_that_is_killed_goes_on(
    checkout: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    root, flags = checkout("weclip"), flags_of("weclip", data)
    text = retrofit("weclip", root, tmp_path / "text", flags, prototypes="text")
    script = root / "test_msc_flip_voc.py"
    body, slow = (
        script.read_text(),
        "np.save(logit, {}); __import__('time').sleep(3 * (name != 'a'))",
    )
    script.write_text(body.replace("np.save(logit, {", f"{slow}\n        np.save(logit, {{"))
    output = tmp_path / "out"
    words = ["retrofit", "--recipe", "weclip", "--checkout", str(root), "--output", str(output)]
    words += ["--prototypes", "text", "--", *flags]
    command = [sys.executable, "-m", "vpl_plugin.cli.main", *words]
    process = subprocess.Popen(command, start_new_session=True)
    kept = output / "results/val/logit/a.npy"
    half = output / "vpl/unfinished/run/results/val/logit/b.npy"
    deadline = time.monotonic() + 120
    while not (kept.exists() and half.exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # Of b there is but what the script writes before the whole of it.
    assert {Path(name).stem for name in files(output)} == {"a"}
    before = kept.stat().st_mtime_ns
    script.write_text(body)
    done = retrofit("weclip", root, output, flags, prototypes="text")
    assert kept.stat().st_mtime_ns == before
    # What the script sums up at its end has the photo that was done before.
    assert files(done.output) == files(text.output)


@RECIPE
def test_another_shape_is_refused_before_anything_runs(
    recipe: str,
    checkout: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, output = checkout(recipe), tmp_path / "out"
    words = ["retrofit", "--recipe", recipe, "--checkout", str(root), "--output", str(output)]
    file = root / FLAGS[recipe][1]
    kept = file.read_text()
    file.write_text(kept.replace("def ", "def my_"))
    assert main([*words, "--", *flags_of(recipe, data)]) == 2
    assert "is of an unknown shape: it does not define" in capsys.readouterr().err
    file.unlink()
    assert main([*words, "--", *flags_of(recipe, data)]) == 2
    told = capsys.readouterr().err
    assert f"is not a checkout of {RECIPES[recipe].title.split(',')[0]}: it lacks" in told
    assert told.count("\n") == 1
    assert not output.exists()


def test_missing_weights_and_wrong_flags_are_told_in_a_line(
    checkout: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = "naclip"
    root, output = checkout(recipe), tmp_path / "out"
    words = ["retrofit", "--recipe", recipe, "--checkout", str(root), "--output", str(output)]
    assert main([*words, "--", *flags_of(recipe, data)[:-1], "nowhere.pt"]) == 1
    told = capfd.readouterr().err.rstrip().splitlines()[-1]
    assert "did not get through" in told
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'" in told
    assert main([*words, "--", "--no-such-flag"]) == 1
    assert f"{RECIPES[recipe].script} ended with 2" in capfd.readouterr().err


def test_prototypes_of_another_shape_are_refused(
    checkout: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    root, flags, file = checkout("weclip"), flags_of("weclip", data), tmp_path / "W.safetensors"
    Prototypes(torch.eye(5, 16), ("cat",)).save(file)
    with pytest.raises(UpstreamError, match=r"shape \(5, 16\); these classes .* take \(23, 16\)"):
        retrofit("weclip", root, tmp_path / "out", flags, prototypes=file)
    # The right ones may follow into the same folder.
    retrofit("weclip", root, tmp_path / "out", flags, prototypes="text")
    with pytest.raises(ValueError, match=r"results of other settings \(prototypes was 'text'"):
        retrofit("weclip", root, tmp_path / "out", flags)


def test_packages_that_a_recipe_needs_not_are_not_asked_for(
    checkout: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    root = checkout("weclip")
    with (root / "clip/model.py").open("a") as module:
        module.write("\nimport package_of_nowhere, cv3.inner\n")
    with pytest.raises(ImportError, match="imports cv3, package_of_nowhere, which is not"):
        retrofit("weclip", root, tmp_path / "out", flags_of("weclip", data))


def test_what_there_is_not_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkout", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["retrofit", "--recipe", "weclap", *words]) == 2
    told: Any = capsys.readouterr().err
    assert "unknown recipe 'weclap'; these exist: 'clip_es', 'clip_es_coco', 'excel'" in told
    assert "did you mean 'weclip'?" in told
