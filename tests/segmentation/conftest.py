"""Tiny photos, the embedded model, and a training of seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vpl_plugin.clip import ClipModel
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.decoder import Decoder


@pytest.fixture(scope="session")
def segmenter(mini: ClipModel) -> Segmenter:
    """A decoder of random weights that answers to its surroundings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pets = Prototypes(torch.randn(5, mini.embed_dim), ("cat", "dog", "bird"))
        decoder = Decoder.for_model(
            mini, pets, (0, 1), width=32, layers=1, heads=2, upsampling=2
        ).eval()
        torch.nn.init.normal_(decoder.head.weight, std=0.05)
    return Segmenter(mini, decoder.requires_grad_(False), (0, 1), pets.class_names)


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
