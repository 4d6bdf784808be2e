"""``vpl cams``: CAMs and masks for a folder of the user's own photos, by CLIP-ES's stages."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.adapters.photos.photo_files import skipped_files
from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.clip.named_classes import class_names
from vpl_plugin.errors import InputError
from vpl_plugin.jobs.folder_cams import FolderSettings, folder_cams

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

LEFT_OUT = ("output", "source", "parity", "upstream_files", "pictures")


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl cams``."""
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument(
        "--classes", required=True, help='"voc", "coco", or class names with commas between'
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the header photo,labels; labels with semicolons between"
        " (default: the sub-folder's name is the label)",
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_cams"), help="folder to write")
    parser.add_argument("--no-panels", action="store_true", help="write no pictures and no report")
    add_model_arguments(parser.add_argument_group("model"))
    add_text_arguments(parser)
    add_options(parser, FolderSettings, leave_out=LEFT_OUT)


def run(arguments: argparse.Namespace) -> int:
    """Writes CAMs, masks and panels, resumes. Returns the exit code: 1 where a photo failed."""
    of_set = class_names(arguments.classes)
    names = own_texts(of_set, arguments)
    source = {
        "root": str(arguments.photos.resolve()),
        "classes": names.labels,
        "texts": changed_texts(names, of_set),
    }
    settings = settings_of(
        arguments, FolderSettings, source=source, pictures=not arguments.no_panels
    )
    _check_output(arguments)
    photos = folder_photos(arguments.photos, names, arguments.labels)
    if photos.skipped:
        logger.info("%s: skipped %s", arguments.photos, skipped_files(photos.skipped))
    if not photos.photos:
        raise InputError(f"there is no photo whose labels are known: {photos.why_empty()}")
    failures = photos.failures
    with reported(failures):
        title = f"CAMs of {arguments.photos.resolve().name}"
        folder_cams(load_model(arguments), photos, settings, failures, title=title)
    done = sum(item.photo not in failures for item in photos.photos)
    logger.info("%d photos are in %s", done, settings.output.resolve())
    if settings.pictures:
        logger.info("Look at %s", (settings.output / "report.html").resolve())
    return 1 if failures else 0


def _check_output(arguments: argparse.Namespace) -> None:
    output, photos = arguments.output.resolve(), arguments.photos.resolve()
    if arguments.labels is None and output.is_relative_to(photos):
        raise InputError(
            f"--output {arguments.output} lies in the folder of photos, where a folder's name is a"
            " class: choose one outside"
        )
