"""A tiny training, here or in a process of its own that can be killed or have fellows."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vpl_plugin.clip import load_clip
from vpl_plugin.localization import write_mask
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.examples import list_examples
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import train_decoder

CLASSES = ("red", "green", "blue")
SETTINGS = {
    "width": 32,
    "layers": 1,
    "heads": 4,
    "iterations": 6,
    "batch_size": 4,
    "crop": 64,
    "scales": (0.8, 1.25),
    "warmup": 2,
    "lambda_rsc": 1.0,
}


def write_photos(folder, count=6):
    """Photos of a coloured half on a grey one, their masks with an unknown strip between."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(count):
        height, width = 48 + 8 * index, 90 - 6 * index
        photo = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        label = index % len(CLASSES)
        photo[:, : width // 2, label] += 110
        mask[:, : width // 2] = 1 + label
        mask[:, width // 2 - 2 : width // 2 + 2] = 255
        Image.fromarray(photo).save(folder / "photos" / f"{index}.png")
        write_mask(folder / "masks" / f"{index}.png", mask)


def examples_of(data):
    photos = {path.stem: path for path in sorted((data / "photos").iterdir())}
    return list_examples(photos, data / "masks", len(CLASSES))


def prototypes():
    rows = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    return Prototypes(F.normalize(rows, dim=1), CLASSES)


def train(data, output, *, model=None, settings=None, **options):
    model = model or load_clip("mini", device="cpu")
    options = {"progress": False, "checkpoint_every": 2, "log_every": 2, **options}
    return train_decoder(
        model,
        examples_of(data),
        prototypes(),
        TrainingSettings(**{**SETTINGS, **(settings or {})}),
        output,
        **options,
    )


def main():
    data, output, settings, killed_at = sys.argv[1:]
    torch.set_num_threads(1)

    def die(_segmenter):
        os.kill(os.getpid(), signal.SIGKILL)

    options = {"validate": die, "validate_every": int(killed_at)} if int(killed_at) else {}
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    train(Path(data), Path(output), settings=json.loads(settings), **options)


if __name__ == "__main__":
    main()
