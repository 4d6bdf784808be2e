"""``vpl-clip-es --upstream``: vision prototypes in a checkout of CLIP-ES."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.adapters.clip_es.upstream import retrofit
from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS
from vpl_plugin.cli.outcome import exit_code
from vpl_plugin.cli.retrofit import add_learning_arguments, learning_options, run_upstream

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, 1 where upstream's code failed, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    def work() -> None:
        options = {**vars(arguments), **learning_options(arguments)}
        done = retrofit(options.pop("upstream"), **options)
        logger.info("CAMs of %d photos are in %s", done.photos, done.cam_out_dir)
        logger.info("the prototypes are in %s", done.prototypes)

    program = "vpl-clip-es"
    return exit_code(program, lambda: run_upstream(program, "traceback" in arguments, work))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vpl-clip-es --upstream",
        description="Runs CLIP-ES's own scripts, unmodified, with vision prototypes.",
    )
    parser.add_argument("--upstream", type=Path, required=True, help="checkout of CLIP-ES")
    parser.add_argument(
        "--dataset", choices=sorted(SCRIPTS), default="voc12", help="which script (default: voc12)"
    )
    upstream = parser.add_argument_group("upstream's own flags")
    upstream.add_argument("--img_root", type=Path, required=True, help="folder of photos")
    upstream.add_argument(
        "--split_file", type=Path, help="photos to use (default: the checkout's train split)"
    )
    upstream.add_argument(
        "--cam_out_dir",
        type=Path,
        required=True,
        help='folder for the .npy files; upstream\'s eval scripts want "voc" or "coco" in its path',
    )
    upstream.add_argument("--model", required=True, help='ViT-B-16.pt, or "mini"')
    upstream.add_argument("--num_workers", type=int, default=1, help="processes (default: 1)")
    add_learning_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
