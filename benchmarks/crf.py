"""How fast the dense CRF in torch is, against pydensecrf2 and by threads and processes.

    python benchmarks/crf.py [--maps 2 3 4 6] [--repeat 3] [--photos FOLDER] [--workers 1 2 4]
    python benchmarks/crf.py --device cuda [--batch 8]

First both backends run on the same photos in turn, in one process and one thread, with the spatial
lattice kept (the extra crf; without it torch runs alone): median seconds per photo, of the process
on a CPU so that other work on the machine does not count, and their ratio. Labels are compared on
the way. Then the throughput by threads and by processes, as the stage masks
runs it, from when all of them are at work. Photos are synthetic, of VOC's usual 375 x 500 pixels:
smooth regions with a sensor's noise, which occupy as many vertices of the lattice as photographs
do. With --photos the files of a folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vpl_plugin.localization import dense_crf
from vpl_plugin.localization.crf import reference_backend
from vpl_plugin.worker_pool import run_jobs

HEIGHT, WIDTH = 375, 500
PHOTOS = 4
# Jobs per worker, so that a start and an end do not count for much.
JOBS = 12

Span = tuple[Hashable, float, float]


def synthetic_photo(seed: int) -> np.ndarray:
    """(375, 500, 3) uint8: smooth regions with noise."""
    generator = torch.Generator().manual_seed(seed)
    regions = torch.rand(1, 3, 6, 8, generator=generator) * 255
    photo = F.interpolate(regions, (HEIGHT, WIDTH), mode="bicubic")[0]
    photo += 3 * torch.randn(photo.shape, generator=generator)
    return photo.clamp(0, 255).byte().permute(1, 2, 0).numpy()


def maps_of(photo: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, H, W) float32: an even background and blobs, as CAMs are."""
    height, width = photo.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    small = 4 * torch.rand(1, count, 6, 8, generator=generator)
    small[:, 0] = 2
    return F.interpolate(small, (height, width), mode="bicubic").softmax(1)[0].numpy()


def photos_of(folder: Path | None) -> list[np.ndarray]:
    """The photos to run on."""
    if folder is None:
        return [synthetic_photo(seed) for seed in range(PHOTOS)]
    photos = []
    for path in islice(sorted(folder.glob("*.jpg")), PHOTOS):
        with Image.open(path) as image:
            photos.append(np.array(image.convert("RGB")))
    if not photos:
        raise SystemExit(f"no *.jpg in {folder}")
    return photos


def seconds(work: Callable[[], np.ndarray], clock: Callable[[], float]) -> tuple[float, np.ndarray]:
    start = clock()
    result = work()
    return clock() - start, result


def compare(photos: list[np.ndarray], counts: list[int], repeat: int, device: str) -> None:
    """Both backends in turn."""
    with_reference = reference_backend() == "pydensecrf"
    clock = time.process_time if device == "cpu" else time.perf_counter
    if not with_reference:
        print('pydensecrf2 is not installed (pip install "vpl_plugin[crf]"): torch runs alone')
    print(f"one process, torch on {device}; median seconds per photo")
    print("maps   torch   pydensecrf   torch : pydensecrf   labels equal")
    for count in counts:
        ours, theirs, equal = [], [], []
        for seed, photo in enumerate(photos):
            maps = maps_of(photo, count, seed)
            # Keeps the spatial lattice, and warms up.
            dense_crf(photo, maps, iterations=1, device=device)
            for _ in range(repeat):
                taken, result = seconds(partial(dense_crf, photo, maps, device=device), clock)
                ours.append(taken)
                if with_reference:
                    taken, reference = seconds(
                        partial(dense_crf, photo, maps, backend="pydensecrf"), clock
                    )
                    theirs.append(taken)
                    equal.append((result.argmax(0) == reference.argmax(0)).mean())
        line = f"{count:4d} {statistics.median(ours):7.3f}"
        if with_reference:
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            line += f" {statistics.median(theirs):12.3f} {ratio:20.2f} {np.mean(equal):14.4%}"
        print(line, flush=True)


def batches(photo: np.ndarray, size: int, device: str) -> None:
    """Photos per second in batches."""
    maps = maps_of(photo, 3, 0)
    for count in (1, size):
        many = np.stack([photo] * count), np.stack([maps] * count)
        work = partial(dense_crf, *many, device=device)
        work()
        taken = statistics.median(seconds(work, time.perf_counter)[0] for _ in range(5))
        print(f"batch of {count}: {count / taken:.1f} photos per second")


def one_photo(seed: int) -> Span:
    """The thread that ran the CRF on a photo, and when it began and ended."""
    photo = synthetic_photo(seed % PHOTOS)
    maps = maps_of(photo, 3, seed)
    began = time.time()
    dense_crf(photo, maps)
    return (os.getpid(), threading.get_ident()), began, time.time()


def rate(done: list[Span]) -> float:
    """Photos per second while all workers are at work."""
    first, last = {}, {}
    for worker, began, ended in sorted(done, key=lambda span: span[1]):
        first.setdefault(worker, began)
        last[worker] = ended
    start, end = max(first.values()), min(last.values())
    # A photo counts with the share of it that falls between the two.
    shares = (
        max(0.0, min(ended, end) - max(began, start)) / (ended - began) for _, began, ended in done
    )
    return sum(shares) / (end - start)


def in_threads(workers: int) -> list[Span]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one_photo, range(JOBS * workers)))


def in_processes(workers: int) -> list[Span]:
    return [result() for _, result in run_jobs(one_photo, range(JOBS * workers), workers)]


def scaling(counts: list[int]) -> None:
    """Throughput by threads and by processes."""
    print("workers   kind        photos per second   ratio")
    for kind, run in (("threads", in_threads), ("processes", in_processes)):
        alone = None
        for workers in counts:
            now = rate(run(workers))
            alone = alone or now
            print(f"{workers:7d}   {kind:9s} {now:19.2f} {now / alone:6.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--photos", type=Path, help="folder of *.jpg (default: synthetic ones)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="photos at once on a GPU")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, 2, os.cpu_count() or 1})
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = photos_of(arguments.photos)
    compare(photos, arguments.maps, arguments.repeat, arguments.device)
    if arguments.device == "cpu":
        scaling(arguments.workers)
    else:
        batches(photos[0], arguments.batch, arguments.device)


if __name__ == "__main__":
    main()
