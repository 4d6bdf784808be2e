"""``vpl ablate``: the paper's ablations (Tables 4-7) and ours, on photos with masks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.experiments.ablation.run import CURVE, ablate, ablation_photos
from vpl_plugin.experiments.ablation.settings import TABLES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl ablate``."""
    parser.add_argument("root", type=Path, help="folder with JPEGImages and SegmentationClass")
    parser.add_argument(
        "--train",
        default="train",
        help="split that prototypes are learned on: a file, or the name of a list in"
        " ImageSets/Segmentation (default: train)",
    )
    parser.add_argument(
        "--val", default="val", help="split that is scored beside it (default: val)"
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_ablation"), help="folder to write")
    add_model_arguments(parser)
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=sorted([*TABLES, CURVE]),
        default=[*TABLES, CURVE],
        help=f"which tables; {CURVE} also draws {CURVE}.png, mIoU by the number of photos",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs every setting once, resumes, writes and prints the tables. Returns the exit code."""
    failures: dict[Path, str] = {}
    splits = {
        name: ablation_photos(arguments.root, getattr(arguments, name), failures)
        for name in ("train", "val")
    }
    with reported(failures, "left out"):
        tables = ablate(load_model(arguments), splits, arguments.output, arguments.tables)
        sys.stdout.write(tables)
    return 1 if failures else 0
