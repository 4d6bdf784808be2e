"""CLIP-CPAL: memory of the bank and of k-means as the photos grow, time of the training.

    python benchmarks/cpal.py [--photos 500] [--repeat 3]

Synthetic features of 20 classes, two of them in each photo. Memory: 1, 10 and 100 times the photos,
each size in a process of its own, which shows how much its peak memory rose above what it had
before: above nothing for the bank, above the vectors it is given for k-means, which in the pipeline
the bank bounds. Time: five epochs over files of ``--photos`` photos, the photos of a step at once
and held in memory, against one photo at a time, read from its file in each epoch; in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.adapters.clip_cpal import Context, Example, SupportBank, context_prototypes
from vpl_plugin.adapters.clip_cpal.constants import ALIGNMENT, PHOTOS_PER_STEP, TOP_K
from vpl_plugin.adapters.clip_cpal.self_supervision import step_losses
from vpl_plugin.adapters.clip_cpal.stages.adapt import Examples, HeldInstances
from vpl_plugin.prototypes import Prototypes

CLASSES, WIDTH, CAPACITY, CLUSTERS, PIXELS = 20, 512, 16, 8, 128
TEMPERATURE = 0.03


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


class OneByOne(Sequence[Example]):
    """A photo is read, and its targets are made, each time that it is asked for."""

    def __init__(self, files: Sequence[Path], context: Context) -> None:
        self._files, self._context = files, context

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        held = HeldInstances(self._files[index : index + 1], held_bytes=0)
        return Examples(held, self._context, alignment=ALIGNMENT, top_k=TOP_K)[0]


def write_instances(folder: Path, photos: int) -> list[Path]:
    """Files as the stage ``bank`` leaves them, 128 pixels a photo."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(photos):
        features = rng.normal(size=(PIXELS, WIDTH))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        files.append(folder / f"{number}.npz")
        np.savez(
            files[-1],
            classes=np.array([number % CLASSES, (number * 7 + 1) % CLASSES]),
            instances=features[:2].astype(np.float32),
            photo_mean=features.mean(axis=0).astype(np.float32),
            features=features.astype(np.float16),
        )
    return files


def losses_of_one(photo: Example, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses of one photo, as they were before photos went together."""
    features = F.normalize(photo.features.float(), dim=1)
    embedding = F.normalize(photo.photo_mean, dim=0)
    rows = F.normalize(prototypes, dim=1)
    logits = rows @ embedding / TEMPERATURE
    against = logits[:CLASSES] - logits[CLASSES:].logsumexp(dim=0)
    present = torch.zeros_like(against)
    present[list(photo.classes)] = 1.0
    shown = rows[[*photo.classes, *range(CLASSES, len(rows))]]
    mean = (shown @ embedding / TEMPERATURE).softmax(dim=0) @ shown
    direction = shown[: len(photo.classes)] - mean
    direction = direction - (direction @ embedding)[:, None] * embedding
    maps = torch.relu(direction @ features.T)
    cams = maps / (maps.amax(dim=1, keepdim=True) + 1e-7)
    return (
        F.binary_cross_entropy_with_logits(against, present),
        (cams - photo.targets).abs().mean(),
    )


def train(examples: Sequence[Example], *, together: bool) -> tuple[float, float]:
    """Seconds of five epochs, the photos of a step together or one by one, and the last loss."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(CLASSES + 25, WIDTH, generator=generator)
    W = F.normalize(W, dim=1).requires_grad_()
    names = tuple(map(str, range(CLASSES)))
    optimiser = torch.optim.Adam([W], lr=3e-3)
    start = time.perf_counter()
    for _ in range(5):
        total = 0.0
        for step in torch.randperm(len(examples), generator=generator).split(PHOTOS_PER_STEP):
            optimiser.zero_grad()
            if together:
                photos = [examples[index] for index in step.tolist()]
                terms = step_losses(photos, Prototypes(W, names, TEMPERATURE))
                loss = torch.stack(terms).sum()
                (loss / len(step)).backward()
                total += float(loss.detach())
            else:
                for index in step.tolist():
                    loss = torch.stack(losses_of_one(examples[index], W)).sum()
                    (loss / len(step)).backward()
                    total += float(loss.detach())
            optimiser.step()
    return time.perf_counter() - start, total / len(examples)


def compare_training(photos: int, repeat: int) -> None:
    """Prints milliseconds per photo and epoch of both ways, and their ratio."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    prototypes = F.normalize(torch.randn(CLASSES, CLUSTERS, WIDTH, generator=generator), dim=2)
    context = Context(prototypes, torch.full((CLASSES,), CLUSTERS), torch.zeros(WIDTH))
    with tempfile.TemporaryDirectory() as name:
        files = write_instances(Path(name), photos)
        seconds: list[list[float]] = []
        for _ in range(repeat):
            held = Examples(HeldInstances(files), context, alignment=ALIGNMENT, top_k=TOP_K)
            one, alone = train(OneByOne(files, context), together=False)
            many, together = train(held, together=True)
            seconds.append([one, many])
            assert abs(alone - together) < 1e-3 * abs(alone)
    one, many = (1000 * statistics.median(way) / 5 / photos for way in zip(*seconds, strict=True))
    print(
        f"training: {one:.2f} ms per photo and epoch one by one, {many:.2f} ms at once and held in"
        f" memory: {one / many:.1f} times as fast (median of {repeat})"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    compare_training(arguments.photos, arguments.repeat)
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
