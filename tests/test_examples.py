"""The example scripts that need no other checkout run."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.localization import voc_palette, write_mask

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def main_of(name: str) -> Callable[[list[str]], int]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_compare_masks_shows_every_column(tmp_path: Path) -> None:
    for folder, label in (("truth", 12), ("run", 15)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "c"):
            write_mask(tmp_path / folder / f"{name}.png", np.full((20, 30), label, np.uint8))
    (tmp_path / "list.txt").write_text("a\nb\nc\n")
    arguments = [f"true mask={tmp_path / 'truth'}", f"mine={tmp_path / 'run'}"]
    options = ["--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "out.png")]
    assert main_of("compare_masks")([*arguments, *options, "--count", "2"]) == 0
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    for label in (12, 15):
        shown = (picture == voc_palette()[label]).all(axis=2)
        assert shown.mean() > 0.1


def test_compare_masks_names_a_column_without_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--list", "list.txt", "--output", "out.png"]
    with pytest.raises(SystemExit):
        main_of("compare_masks")([f"mine={tmp_path / 'nowhere'}", *options])
    assert "nowhere" in capsys.readouterr().err
