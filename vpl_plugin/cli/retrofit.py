"""``vpl retrofit``: vision prototypes in an unmodified checkout of another method's code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.pipeline.options import add_options, given_options
from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit import UpstreamError, retrofit

__all__ = ["add_arguments", "add_learning_arguments", "learning_options", "run", "run_upstream"]

logger = logging.getLogger(__name__)

# Where things are: options of other names, or of the recipe.
WHERE = ("recipe", "checkout", "output", "flags")
# On the command line 0 stands for all pixels.
LEFT_OUT = (*WHERE, "pixels_per_photo")


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
    add_options(own, retrofit, leave_out=LEFT_OUT)
    own.add_argument(
        "--pixels-per-photo",
        type=int,
        default=argparse.SUPPRESS,
        help="drawn from each photo; 0 takes them all"
        f" (default: {(retrofit.__kwdefaults__ or {})['pixels_per_photo']})",
    )


def learning_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of :func:`add_learning_arguments` that were given, as :func:`retrofit` takes them."""
    given = given_options(arguments, retrofit)
    learning = {name: value for name, value in given.items() if name not in WHERE}
    if "pixels_per_photo" in learning:
        learning["pixels_per_photo"] = learning["pixels_per_photo"] or None
    return learning


def run(arguments: argparse.Namespace) -> int:
    """Runs the command. Returns 0, or 1 where the method's code failed."""

    def work() -> None:
        where = (arguments.recipe, arguments.checkout, arguments.output, arguments.flags)
        done = retrofit(*where, **learning_options(arguments))
        logger.info("the files of %d photos are in %s", done.photos, done.output)
        logger.info("the prototypes are in %s", done.prototypes)

    return run_upstream("vpl retrofit", "traceback" in arguments, work)


def run_upstream(program: str, traceback: bool, work: Callable[[], None]) -> int:
    """Does the work; where the method's code fails, says so in one line. Returns the exit code."""
    try:
        work()
    except UpstreamError as error:
        hint = "" if traceback else " (where: run it again with --traceback)"
        print(f"{program}: {error}{hint}", file=sys.stderr)
        return 1
    return 0
