"""How many photos per second the decoder trains on, with and without cached tokens.

Both ways run in turn, each in a process of its own so that their peak memory can be told apart:

    python benchmarks/training.py [--model mini] [--device cuda] [--threads 1] [--repeat 3]

The photos are noise of VOC's usual size. Prints the median photos per second over the second half
of a run, the ratio, the peak memory (of the process; on a GPU, of its allocator), what the cache
takes to fill and holds, and after how many epochs it has paid for itself. "ViT-B-16" has random
weights.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vpl_plugin.clip import load_clip
from vpl_plugin.localization import write_mask
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.examples import list_examples
from vpl_plugin.segmentation.feature_cache import FeatureCache
from vpl_plugin.segmentation.settings import TrainingSettings, default_blocks
from vpl_plugin.segmentation.training import train_decoder

NUM_FOREGROUND, NUM_BACKGROUND = 20, 25
HEIGHT, WIDTH = 375, 500
PHOTOS = 12


class Run(NamedTuple):
    """What one run was measured at."""

    photos_per_second: float
    peak_mib: float
    fill_seconds: float
    cache_mib: float


def write_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(PHOTOS):
        photo = rng.integers(256, size=(HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8)
        image = Image.fromarray(photo).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.jpg")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[100:300, 100:400] = 1 + index % NUM_FOREGROUND
        write_mask(folder / f"{index}.png", mask)


def measure(arguments: argparse.Namespace, folder: Path, cached: bool) -> Run:
    torch.set_num_threads(arguments.threads)
    source = {} if arguments.model == "mini" else {"pretrained": None}
    torch.manual_seed(0)
    model = load_clip(arguments.model, device=arguments.device, **source)
    examples = list_examples(
        {str(index): folder / f"{index}.jpg" for index in range(PHOTOS)}, folder, NUM_FOREGROUND
    )
    rows = torch.randn(NUM_FOREGROUND + NUM_BACKGROUND, model.embed_dim)
    prototypes = Prototypes(rows, tuple(map(str, range(NUM_FOREGROUND))))
    settings = TrainingSettings(
        iterations=2 * arguments.iterations,
        crop=arguments.crop,
        width=arguments.width,
        layers=arguments.layers,
        mask_stride=arguments.mask_stride,
        scales=(1.0,) if cached else (0.5, 2.0),
    )
    cache, fill_seconds, cache_bytes = None, 0.0, 0
    if cached:
        cache = Path(tempfile.mkdtemp(dir=folder))
        begun = time.perf_counter()
        FeatureCache(cache, model, default_blocks(model.depth)).fill(examples, progress=False)
        fill_seconds = time.perf_counter() - begun
        cache_bytes = sum(file.stat().st_size for file in cache.iterdir())
    output = Path(tempfile.mkdtemp(dir=folder))
    train_decoder(
        model,
        examples,
        prototypes,
        settings,
        output,
        cache=cache,
        log_every=arguments.iterations,
        checkpoint_every=settings.iterations,
        workers=arguments.workers,
        progress=False,
    )
    with (output / "metrics.csv").open() as stream:
        speed = float(list(csv.DictReader(stream))[-1]["photos_per_second"])
    return Run(speed, peak_mib(model.device), fill_seconds, cache_bytes / 2**20)


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10, help="timed, after as many others")
    parser.add_argument("--crop", type=int, default=320)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--mask-stride", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{arguments.model} on {arguments.device}, {arguments.threads} thread(s),"
        f" {arguments.workers} worker(s), torch {torch.__version__}, batch 6, crop"
        f" {arguments.crop}, width {arguments.width}, {arguments.layers} layers, mask stride"
        f" {arguments.mask_stride}, median of {arguments.repeat}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder)
        # A fresh process each: a process's peak memory never falls.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            runs = [
                [pool.apply(measure, (arguments, folder, cached)) for cached in (False, True)]
                for _ in range(arguments.repeat)
            ]
    photos, cached = (
        Run(*(statistics.median(values) for values in zip(*way, strict=True)))
        for way in zip(*runs, strict=True)
    )
    print("from            photos/s  peak MiB")
    for way, run in (("photos", photos), ("cached tokens", cached)):
        print(f"{way:14s} {run.photos_per_second:9.2f} {run.peak_mib:9.0f}")
    ratio = cached.photos_per_second / photos.photos_per_second
    fill = cached.fill_seconds / PHOTOS
    saved = 1 / photos.photos_per_second - 1 / cached.photos_per_second
    paid = f"paid for after {fill / saved:.1f} epochs" if saved > 0 else "never paid for"
    print(
        f"cached / photos: {ratio:.2f}x; the cache takes {fill:.2f} s and"
        f" {cached.cache_mib / PHOTOS:.1f} MiB a photo, {paid}"
    )


if __name__ == "__main__":
    main()
