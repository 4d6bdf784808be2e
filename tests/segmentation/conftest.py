"""Tiny photos, the embedded model, and a training of seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vpl_plugin.clip import ClipModel, load_clip


@pytest.fixture(scope="session")
def mini() -> ClipModel:
    return load_clip("mini", device="cpu")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module train_tiny.py, which is also a program."""
    file = Path(__file__).with_name("train_tiny.py")
    spec = importlib.util.spec_from_file_location("train_tiny", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data(tiny, tmp_path_factory) -> Path:
    """Six photos and their masks; tests that change files make their own."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    tiny.write_photos(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tiny, data, mini, tmp_path_factory) -> Path:
    """The output folder of a training that nothing disturbed."""
    output = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    tiny.train(data, output, model=mini)
    return output
