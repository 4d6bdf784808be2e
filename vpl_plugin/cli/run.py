"""``vpl run``: the stages of any adapter, this package's or an installed one's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.cli.pipeline import run_adapter

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl run``."""
    parser.add_argument("adapter", metavar="ADAPTER", help=", ".join(ADAPTERS))
    parser.add_argument(
        "words",
        metavar="STAGE ...",
        nargs=argparse.REMAINDER,
        help="a stage and its options; vpl run ADAPTER --help lists them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the stage. Returns the exit code."""
    return run_adapter(arguments.adapter, f"vpl run {arguments.adapter}", arguments.words)
