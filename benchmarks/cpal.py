"""Memory of CLIP-CPAL's bank and k-means as the photos grow: 1, 10 and 100 times the data.

    python benchmarks/cpal.py [--photos 500]

Synthetic features of 20 classes, two of them in each photo. Each size runs in a process of its own
and tells how much its peak memory rose above what it had before: above nothing for the bank, above
the vectors it is given for k-means, which in the pipeline the bank bounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch

from vpl_plugin.adapters.clip_cpal import SupportBank, context_prototypes

CLASSES, WIDTH, CAPACITY, CLUSTERS = 20, 512, 16, 8


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fill_bank(photos: int) -> tuple[float, float, float]:
    """Rise of the peak in MB, seconds, MB of the vectors offered."""
    torch.set_num_threads(1)
    bank = SupportBank(CLASSES, CAPACITY)
    generator = torch.Generator().manual_seed(0)
    # What every size needs alike is paid before the first reading.
    context_prototypes(torch.randn(64, WIDTH, generator=generator), CLUSTERS)
    before, start = peak(), time.perf_counter()
    for number in range(photos):
        present = [number % CLASSES, (number * 7 + 1) % CLASSES]
        bank.add(f"{number}", present, torch.randn(2, WIDTH, generator=generator))
    for index in range(CLASSES):
        context_prototypes(bank.vectors(index), CLUSTERS)
    return peak() - before, time.perf_counter() - start, photos * 2 * WIDTH * 4 / 2**20


def cluster(vectors: int) -> tuple[float, float, float]:
    """The same of k-means on so many vectors that are in memory already."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    # In place: a copy that is given back would hide what k-means takes.
    X = torch.randn(vectors, WIDTH, generator=generator)
    X /= X.norm(dim=1, keepdim=True)
    context_prototypes(X[:64], CLUSTERS, chunk_size=64)
    before, start = peak(), time.perf_counter()
    context_prototypes(X, CLUSTERS, iterations=3, chunk_size=1024)
    return peak() - before, time.perf_counter() - start, vectors * WIDTH * 4 / 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=500)
    arguments = parser.parse_args()
    # Spawned: a forked process would inherit the peak of this one.
    context = multiprocessing.get_context("spawn")
    for name, job in (("support bank", fill_bank), ("k-means", cluster)):
        first = 0.0
        for factor in (1, 10, 100):
            with context.Pool(1) as pool:
                rise, seconds, data = pool.apply(job, (arguments.photos * factor,))
            first = first or max(rise, 0.1)
            what = "photos" if job is fill_bank else "vectors"
            print(
                f"{name}: {arguments.photos * factor} {what}, {data:.1f} MB of features: peak rises"
                f" by {rise:.1f} MB ({rise / first:.1f} times the first), {seconds:.1f} s"
            )


if __name__ == "__main__":
    main()
