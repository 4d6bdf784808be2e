"""A tiny data set and decoder for the commands of phase 2; a command in two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.clip import VOC, ClipModel, class_prototypes
from vpl_plugin.experiments.demo.photos import demo_photos
from vpl_plugin.localization import write_mask
from vpl_plugin.segmentation.checkpoints import save_checkpoint
from vpl_plugin.segmentation.decoder import Decoder

DECODER = {"width": 32, "layers": 1, "heads": 2}


def write_voc(root: Path, factor: int) -> list[str]:
    """The demo's six photographs, so many times smaller, in VOC's layout; their names."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for item in demo_photos():
        photo = item.photo.reduce(factor)
        photo.save(root / "JPEGImages" / f"{item.name}.jpg", quality=95)
        mask = Image.fromarray(item.mask).resize(photo.size, Image.Resampling.NEAREST)
        write_mask(root / "SegmentationClass" / f"{item.name}.png", np.array(mask))
    return [item.name for item in demo_photos()]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of about 100 pixels a side in VOC's layout, with annotations."""
    root = tmp_path_factory.mktemp("data") / "VOC2012"
    names = write_voc(root, 5)
    (root / "Annotations").mkdir()
    for item in demo_photos():
        objects = "".join(f"<object><name>{label}</name></object>" for label in item.labels)
        listed = f"<annotation>{objects}</annotation>"
        (root / "Annotations" / f"{item.name}.xml").write_text(listed)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture(scope="session")
def voc_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of about 60 pixels a side in VOC's layout: four to train, two to score."""
    root = tmp_path_factory.mktemp("tiny") / "VOC2012"
    names = write_voc(root, 8)
    (root / "train.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "val.txt").write_text("\n".join(names[2:]) + "\n")
    return root


@pytest.fixture(scope="session")
def prototypes_file(mini: ClipModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's text prototypes, as if they had been learned."""
    path = tmp_path_factory.mktemp("prototypes") / "prototypes.safetensors"
    replace(class_prototypes(mini, VOC), temperature=0.02).save(path)
    return path


@pytest.fixture(scope="session")
def decoder_file(mini: ClipModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder at its start: the encoder's own features against text prototypes."""
    path = tmp_path_factory.mktemp("decoder") / "decoder.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder.for_model(mini, class_prototypes(mini, VOC), (0, 1), **DECODER)
    save_checkpoint(path, decoder, model=mini, blocks=(0, 1), classes=VOC.labels, made_by={})
    return path


@pytest.fixture(
    params=[
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "cpu"],
)
def full_memory(request: pytest.FixtureRequest) -> RuntimeError:
    """What PyTorch raises where a tensor does not fit."""
    return request.param


@pytest.fixture(scope="session")
def two_ranks() -> Callable[..., None]:
    """Runs a module as torchrun does: two processes that meet over gloo."""

    def run(module: str, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", module, *arguments]
        ranks = [
            subprocess.Popen(command, env={**os.environ, **meeting, "RANK": str(rank)})
            for rank in range(2)
        ]
        try:
            assert [process.wait(timeout=120) for process in ranks] == [0, 0]
        finally:
            for process in ranks:
                process.kill()

    return run
