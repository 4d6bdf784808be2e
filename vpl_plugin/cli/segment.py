"""``vpl segment``: a trained decoder on the user's own photos."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.jobs.listing import list_to_segment
from vpl_plugin.jobs.segment import FOLDERS, save_overlays, score_photos, segment_photos
from vpl_plugin.segmentation.checkpoints import read_checkpoint_metadata
from vpl_plugin.segmentation.inference_settings import InferenceSettings

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl segment``."""
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of photos")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="decoder.safetensors of vpl train"
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_segment"), help="folder to write")
    add_model_arguments(parser, default=None, default_is="the one the decoder was trained on")
    parser.add_argument(
        "--list",
        type=Path,
        help="file with a name, or a path below the folder, per line: only these",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the header photo,labels: only its photos of the folder, and of each only"
        " the classes named",
    )
    add_options(parser, InferenceSettings)
    parser.add_argument("--crf", action="store_true", help="sharpen with a dense CRF")
    parser.add_argument("--overlays", action="store_true", help="write pictures to look at too")
    parser.add_argument("--masks", type=Path, help="folder of ground-truth PNGs: report the mIoU")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes for the CRF (default: the CPU's cores)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes label maps, resumes, scores. Returns the exit code: 1 where a photo failed."""
    about = read_checkpoint_metadata(arguments.checkpoint)
    classes = tuple(about["classes"])
    output: Path = arguments.output
    settings = settings_of(arguments, InferenceSettings)
    failures: dict[Path, str] = {}
    photos = list_to_segment(
        arguments.photos,
        classes,
        failures,
        listed=arguments.list,
        labels=arguments.labels,
        masks=arguments.masks,
        # The folder may hold the label maps of an earlier run too.
        leave_out=[output / name for name in FOLDERS],
    )
    with reported(failures):
        segmented = segment_photos(
            arguments.checkpoint,
            photos,
            output,
            partial(load_model, arguments, default=about["encoder"]["name"]),
            settings,
            failures,
            crf=arguments.crf,
            quick_gelu=arguments.quick_gelu,
            workers=arguments.workers,
        )
        if arguments.overlays:
            save_overlays(output, segmented, classes, failures)
        if arguments.masks is not None:
            figures = score_photos(output, segmented, classes, failures)
            if figures is not None:
                print(figures)
    logger.info("%d of %d photos are in %s", len(segmented), len(photos), output.resolve())
    return 1 if failures else 0
