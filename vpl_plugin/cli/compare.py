"""``vpl compare``: mIoU of several runs on the same photos, with intervals of the differences."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vpl_plugin.checks import check_fraction
from vpl_plugin.errors import InputError
from vpl_plugin.localization.bootstrap import mean_iou, paired_difference, percent, points
from vpl_plugin.localization.photo_counts import PHOTO_COUNTS, PhotoCounts, read_photo_counts

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl compare``."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="FOLDER:KIND",
        help="folder that vpl-clip-es, vpl-clip-cpal or vpl table3 evaluated, and what of it:"
        " refined or labels (CAMs, pseudo-masks); free, given, crf or crf_given (a decoder). Runs"
        " with commas between, such as seeds, are averaged. The first is what the others are"
        " compared with",
    )
    parser.add_argument(
        "--level", type=float, default=0.95, help="of the intervals, in [0, 1] (default: 0.95)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table. Returns the exit code."""
    check_fraction("--level", arguments.level)
    names: tuple[str, ...] | None = None
    sides = []
    for argument in arguments.runs:
        runs = []
        for word in argument.split(","):
            counts, of_photos = _counts(word)
            names = names or counts.names
            runs.append(of_photos[_order(word, counts, names)])
        sides.append(torch.stack(runs))
    assert names is not None, "argparse asks for at least one run"
    lines = [
        f"mIoU in percent on {len(names)} photos; differences with {100 * arguments.level:g} %"
        " intervals (paired bootstrap over photos).",
        "",
        "| run | mIoU | to the first |",
        "|---|---|---|",
    ]
    for argument, side in zip(arguments.runs, sides, strict=True):
        miou = float(mean_iou(side.sum(dim=1)).mean())
        gain = (
            ""
            if side is sides[0]
            else points(paired_difference(side, sides[0], level=arguments.level))
        )
        lines.append(f"| {argument} | {percent(miou)} | {gain} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _counts(word: str) -> tuple[PhotoCounts, Tensor]:
    """The counts of a run, and those of the kind asked for."""
    folder, colon, kind = word.rpartition(":")
    file = Path(folder) / PHOTO_COUNTS
    if not colon or not file.is_file():
        raise InputError(
            f"runs must name FOLDER:KIND of evaluated folders, which hold {PHOTO_COUNTS};"
            f" got {word!r}"
        )
    counts = read_photo_counts(file)
    if kind not in counts.kinds:
        raise InputError(f"{file} has no {kind!r}; it has {', '.join(sorted(counts.kinds))}")
    return counts, counts.kinds[kind]


def _order(word: str, counts: PhotoCounts, names: tuple[str, ...]) -> list[int]:
    """Where the first run's photos stand in this run."""
    position = {name: index for index, name in enumerate(counts.names)}
    differing = {*names} ^ {*counts.names}
    if differing:
        raise InputError(
            f"runs must be of the same photos; {word} and the first differ in {len(differing)},"
            f" such as {min(differing)}"
        )
    return [position[name] for name in names]
