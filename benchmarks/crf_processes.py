"""How the throughput of the dense CRF grows with processes, as the stage ``masks`` runs it.

    python benchmarks/crf_processes.py [--processes 1 2 4] [--photos 24]

Photos of VOC's usual 375 x 500 pixels with three maps each. Prints photos a second and the ratio to
one process, from when all processes are at work: a real split is a thousand times longer.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from vpl_plugin.adapters.worker_pool import run_jobs
from vpl_plugin.localization import dense_crf

HEIGHT, WIDTH, MAPS = 375, 500, 3


def one_photo(seed: int) -> tuple[int, float, float]:
    """Runs the CRF on a photo of blobs; returns the process, and when it began and ended."""
    began = time.time()
    generator = np.random.default_rng(seed)
    blobs = generator.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3)).astype(np.uint8)
    photo = np.kron(blobs, np.ones((25, 25, 1), np.uint8))
    dense_crf(photo, generator.random((MAPS, HEIGHT, WIDTH), np.float32))
    return os.getpid(), began, time.time()


def rate(done: list[tuple[int, float, float]]) -> float:
    """Photos a second while all processes are at work."""
    first, last = {}, {}
    for process, began, ended in sorted(done):
        first.setdefault(process, began)
        last[process] = ended
    start, end = max(first.values()), min(last.values())
    # A photo counts with the share of it that falls between the two.
    shares = (
        max(0.0, min(ended, end) - max(began, start)) / (ended - began) for _, began, ended in done
    )
    return sum(shares) / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--processes", type=int, nargs="+", default=sorted({1, 2, os.cpu_count() or 1})
    )
    parser.add_argument("--photos", type=int, default=24)
    arguments = parser.parse_args()
    print("processes   photos a second   ratio")
    alone = None
    for processes in arguments.processes:
        done = [result() for _, result in run_jobs(one_photo, range(arguments.photos), processes)]
        now = rate(done)
        alone = alone or now
        print(f"{processes:9d} {now:17.2f} {now / alone:6.2f}x", flush=True)


if __name__ == "__main__":
    main()
