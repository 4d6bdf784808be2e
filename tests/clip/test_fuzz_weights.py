"""A part of the fuzz of weights files; VPL_FUZZ_WEIGHTS=5000 runs as many inputs as it says."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest

INPUTS = int(os.environ.get("VPL_FUZZ_WEIGHTS", "120"))


@pytest.fixture(scope="module")
def fuzz_weights() -> ModuleType:
    """The script beside this file."""
    file = Path(__file__).with_name("fuzz_weights.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whole_files_load(fuzz_weights: ModuleType, tmp_path: Path) -> None:
    for sample in fuzz_weights.samples():
        folder = tmp_path / sample.name
        folder.mkdir()
        (folder / sample.name).write_bytes(sample.content)
        if sample.config is not None:
            (folder / "config.json").write_bytes(sample.config)
        path = folder / sample.name
        model = fuzz_weights.load_clip(path, device="cpu", tokenizer=fuzz_weights.tokenizer)
        assert (model.embed_dim, model.token_width, model.depth) == (4, 8, 1)


def test_broken_files_end_in_documented_errors(fuzz_weights: ModuleType, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends, escaped = fuzz_weights.fuzz(0, INPUTS, 0, tmp_path)
    assert escaped == []
    assert sum(ends.values()) == INPUTS
    # Most are found out, and not all: some damage lies where nothing depends on it.
    assert ends["ValueError"] > ends["loaded"] > 0


def test_the_fuzz_notices_what_escapes(fuzz_weights: ModuleType, tmp_path: Path) -> None:
    def load(path: Path, **options: object) -> None:
        raise RuntimeError("unexpected")

    _, escaped = fuzz_weights.fuzz(0, 2, 0, tmp_path, load)
    assert len(escaped) == 2
    assert "input 0 (0-clip.safetensors): RuntimeError: unexpected" in escaped[0]
