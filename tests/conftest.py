"""Fixtures every test folder uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from vpl_plugin.clip import ClipModel, load_clip

settings.register_profile("suite", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the development data folder ../shared is not here")
    return folder


@pytest.fixture(scope="session")
def mini() -> ClipModel:
    """The embedded model, on the CPU."""
    return load_clip("mini", device="cpu")


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device("cuda")
