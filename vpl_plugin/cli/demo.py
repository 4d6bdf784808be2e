"""``vpl demo``: text against vision prototypes on photographs that packages ship."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.experiments.demo.run import run_demo

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl demo``."""
    parser.add_argument(
        "--output", type=Path, default=Path("vpl_demo"), help="folder to write (default: vpl_demo)"
    )
    parser.add_argument(
        "--device", default=None, help="cpu, cuda, ... (default: cuda if it is there)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo and logs where to look. Returns the exit code."""
    run_demo(arguments.output, arguments.device)
    return 0
