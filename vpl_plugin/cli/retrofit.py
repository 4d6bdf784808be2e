"""``vpl retrofit``: vision prototypes in an unmodified checkout of another method's code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR
from vpl_plugin.adapters.recipes import RECIPES

__all__ = ["add_arguments", "add_learning_arguments", "run", "run_upstream"]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl retrofit``."""
    parser.usage = "%(prog)s --recipe NAME --checkout PATH --output PATH [options] -- FLAGS"
    parser.add_argument("--recipe", required=True, metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--checkout", type=Path, required=True, help="the method's code, as cloned")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    add_learning_arguments(parser)
    parser.add_argument(
        "flags",
        metavar="FLAGS",
        nargs="*",
        help="after --, the script's own; their relative paths are those of the checkout",
    )


def add_learning_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whatever runs a method's code with vision prototypes."""
    own = parser.add_argument_group("vision prototypes")
    own.add_argument("--tau-I", type=float, default=0.03, help="temperature (default: 0.03)")
    own.add_argument(
        "--anchor",
        type=float,
        default=DEFAULT_ANCHOR,
        help=f"weight of the prior at the text prototypes, 0 for none (default: {DEFAULT_ANCHOR})",
    )
    own.add_argument("--threshold", type=float, default=0.4, help="Phi (default: 0.4)")
    own.add_argument(
        "--pixels-per-photo",
        type=int,
        default=128,
        help="drawn from each photo; 0 takes them all (default: 128)",
    )
    own.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    own.add_argument(
        "--prototypes",
        help='.safetensors of an earlier run, to use as is, or "text" for the method\'s own',
    )
    own.add_argument(
        "--traceback", action="store_true", help="where upstream's code fails, print its traceback"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command. Returns 0, or 1 where the method's code failed."""
    from vpl_plugin.adapters.retrofit import retrofit

    options = vars(arguments)
    names = ("tau_I", "anchor", "threshold", "pixels_per_photo", "seed", "prototypes", "traceback")
    learning = {name: options[name] for name in names}
    learning["pixels_per_photo"] = arguments.pixels_per_photo or None

    def work() -> None:
        where = (arguments.recipe, arguments.checkout, arguments.output, arguments.flags)
        done = retrofit(*where, **learning)
        logger.info("the files of %d photos are in %s", done.photos, done.output)
        logger.info("the prototypes are in %s", done.prototypes)

    return run_upstream("vpl retrofit", arguments.traceback, work)


def run_upstream(program: str, traceback: bool, work: Callable[[], None]) -> int:
    """Does the work; where the method's code fails, says so in one line. Returns the exit code."""
    from vpl_plugin.adapters.retrofit import UpstreamError

    try:
        work()
    except UpstreamError as error:
        hint = "" if traceback else " (where: run it again with --traceback)"
        print(f"{program}: {error}{hint}", file=sys.stderr)
        return 1
    return 0
