"""Peak memory and time of a pass of the stage ``learn`` as the photos grow, from files on disk.

    python benchmarks/scale.py [--photos 467 10582 82081] [--pixels 128] [--dim 512]

The photos are VOC's few here, VOC's train_aug and COCO 2014's train. Seeds are synthetic: 64 files
of random features, under as many names (hard links) as there are photos, so that the disk stays
small while every pass reads and converts every pixel. Each size runs in a process of its own, a
few iterations long; peak memory is that of the process, PyTorch itself included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vpl_plugin import fit_vision_prototypes
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, write_seeds
from vpl_plugin.adapters.clip_es.stages import SeedStream
from vpl_plugin.localization.seeds import NO_SEED
from vpl_plugin.prototypes import Prototypes

FILES = 64
NUM_FOREGROUND, NUM_BACKGROUND = 20, 25
ITERATIONS = 2


def write_files(folder: Path, pixels: int, dim: int) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        features = generator.standard_normal((pixels, dim), np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        seeds = generator.integers(0, NUM_FOREGROUND, pixels).astype(np.int16)
        seeds[::2] = NO_SEED
        path = folder / f"{number}.npz"
        write_seeds(
            path,
            StoredSeeds(
                features.astype(np.float16), seeds, np.arange(pixels, dtype=np.int32), (1, pixels)
            ),
        )
        paths.append(path)
    return paths


def run_one(folder: Path, photos: int, dim: int) -> None:
    """One size, in this process; prints its figures."""
    names = []
    (folder / "links").mkdir()
    for number in range(photos):
        link = folder / "links" / f"{number:06d}.npz"
        os.link(folder / f"{number % FILES}.npz", link)
        names.append(link)
    prototypes = torch.nn.functional.normalize(
        torch.randn(NUM_FOREGROUND + NUM_BACKGROUND, dim, generator=torch.manual_seed(0)), dim=1
    )
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = Prototypes(prototypes, tuple(map(str, range(NUM_FOREGROUND))))
    stream = SeedStream(names, text)
    start = time.perf_counter()
    fit = fit_vision_prototypes(stream, prototypes, iterations=ITERATIONS, tolerance=0.0)
    # The inputs' check and the targets' sums read the stream once each.
    seconds = (time.perf_counter() - start) / (fit.passes + 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{photos:7d} {idle:9.0f} {peak:9.0f} {seconds:16.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[467, 10_582, 82_081])
    parser.add_argument("--pixels", type=int, default=128, help="of each photo")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        run_one(arguments.folder, arguments.photos[0], arguments.dim)
        return
    print(f"{arguments.pixels} pixels a photo, D = {arguments.dim}")
    print(" photos   idle MB   peak MB   seconds per pass", flush=True)
    for photos in arguments.photos:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), arguments.pixels, arguments.dim)
            command = [sys.executable, __file__, "--folder", folder, "--photos", str(photos)]
            subprocess.run([*command, "--dim", str(arguments.dim)], check=True)


if __name__ == "__main__":
    main()
