"""``vpl``: the entry point that picks a sub-command."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

import vpl_plugin
from vpl_plugin.cli.outcome import exit_code

__all__ = ["main"]

COMMANDS = {
    "demo": "text against vision prototypes on photographs that packages ship",
    "cams": "CAMs and masks for a folder of your own photos",
    "ablate": "the paper's ablations (Tables 4-7) on photos with masks",
    "run": "a stage of an adapter, such as one of an installed package of yours",
    "retrofit": "vision prototypes in an unmodified checkout of another method's code",
    "compare": "mIoU of several runs on the same photos, with intervals of the differences",
    "train": "phase 2: a decoder trained on pseudo-masks, the encoder frozen",
    "segment": "a trained decoder on your own photos: label maps, no image labels needed",
    "table3": "rows I-VI of the paper's Table 3, and Fig. 4, on a data set",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``vpl`` with the arguments given (default: the process's own).

    Returns:
        The exit code: 0 when all went well, 1 when some of the work could not be done, 2 for bad
        input or a full disk.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="vpl", description=vpl_plugin.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=vpl_plugin.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    # Only the module of the command asked for is imported: torch and its friends take seconds.
    chosen = next((argument for argument in argv if argument in COMMANDS), None)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if name == chosen:
            module = importlib.import_module(f"vpl_plugin.cli.{name}")
            module.add_arguments(command, argv)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code(f"vpl {arguments.command}", lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
