"""``vpl-clip-es all`` of an earlier checkout against this one: time, memory, and the files.

    python benchmarks/pipeline.py OLD/.venv/bin/python --root VOCdevkit/VOC2012 --split train.txt
        [--rounds 2] [--workers 2] [--keep FOLDER] [--ours="--anchor 0"]

The embedded model on photos in VOC's layout, labels from the masks. The two run in turn, each round
into empty folders. Where others use the machine, wall time tells little: CPU time is that of all
processes of a run. Memory is the largest process's. At the end stand the ratios of this checkout to
the earlier one, the largest difference of a refined CAM, and the share of the pseudo-masks' pixels
that are equal. They are only where both are asked for the same: checkouts without the prior learn
what this one learns with ``--anchor 0``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpl_plugin.localization import read_mask


class Cost(NamedTuple):
    """Of one run: seconds, seconds of CPU, MB."""

    wall: float
    cpu: float
    memory: float


def timed(python: str, output: Path, options: argparse.Namespace, more: Sequence[str] = ()) -> Cost:
    """Runs the pipeline into an empty folder, with more options if it gets any."""
    shutil.rmtree(output, ignore_errors=True)
    command = [python, "-m", "vpl_plugin.cli.clip_es", "all", "--dataset", "voc"]
    command += ["--root", options.root, "--split", options.split, "--labels", "masks"]
    command += [
        "--output",
        str(output),
        "--workers",
        str(options.workers),
        "--device",
        "cpu",
        *more,
    ]
    start = time.perf_counter()
    # Away from this checkout, which would be imported in the place of the other.
    with subprocess.Popen(
        command, cwd=output.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} ended with {process.returncode}")
    wall = time.perf_counter() - start
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def compare(old: Path, new: Path) -> tuple[float, float]:
    """The largest difference of a refined CAM, and the share of mask pixels that are equal."""
    largest, equal, pixels = 0.0, 0, 0
    for file in sorted((old / "vision/cams").glob("*.npz")):
        with np.load(file) as ours, np.load(new / "vision/cams" / file.name) as theirs:
            largest = max(largest, float(np.abs(ours["refined"] - theirs["refined"]).max()))
        mask = f"vision/masks/{file.stem}.png"
        same = read_mask(old / mask) == read_mask(new / mask)
        equal, pixels = equal + int(same.sum()), pixels + same.size
    return largest, equal / pixels


def main() -> None:
    """Prints a line a run, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", help="the Python of the earlier checkout's environment")
    parser.add_argument("--root", type=os.path.abspath, required=True)
    parser.add_argument("--split", type=os.path.abspath, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder of the results (default: none is kept)")
    parser.add_argument("--ours", type=shlex.split, default=(), help="options of this one alone")
    options = parser.parse_args()
    pythons = {"old": os.path.abspath(options.old), "new": sys.executable}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        costs: dict[str, list[Cost]] = {name: [] for name in pythons}
        for _ in range(options.rounds):
            for name, python in pythons.items():
                cost = timed(python, folder / name, options, options.ours if name == "new" else ())
                costs[name].append(cost)
                print(f"{name}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s, {cost.memory:.0f} MB")
                sys.stdout.flush()
        pairs = list(zip(costs["new"], costs["old"], strict=True))
        for part in Cost._fields:
            ratios = [getattr(new, part) / getattr(old, part) for new, old in pairs]
            print(f"{part}, new / old: {statistics.median(ratios):.2f}")
        largest, equal = compare(folder / "old", folder / "new")
        print(f"refined CAMs differ by {largest:.1g} at most; masks agree on {equal:.3%}")


if __name__ == "__main__":
    main()
