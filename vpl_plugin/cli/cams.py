"""``vpl cams``: CAMs and masks for a folder of the user's own photos, by CLIP-ES's stages."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stages import CAMs, Learn, Masks, Seeds
from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.adapters.photos.photo_files import skipped_files
from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.adapters.pipeline.run import Run, Stage
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.clip.named_classes import class_names
from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError
from vpl_plugin.plots.cam_explorer import save_cam_explorer
from vpl_plugin.plots.cam_panels import save_cam_panels

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

LEFT_OUT = ("output", "source", "parity", "upstream_files", "pictures")


@dataclass(frozen=True)
class FolderSettings(Settings):
    """CLIP-ES's settings, and a folder with one sub-folder per kind of file.

    Attributes:
        crf: sharpen the masks with a dense CRF.
        pictures: write panels and the report.
    """

    crf: bool = False
    pictures: bool = True

    @property
    def kind(self) -> Path:
        """The output itself: it holds the results of one kind of prototypes."""
        return self.output

    @property
    def learned(self) -> Path:
        """The output itself."""
        return self.output

    @property
    def probabilities(self) -> Path | None:
        """Folder of what the prototypes say of each pixel; the report alone shows it."""
        return self.kind / "probabilities" if self.pictures else None


class TextSettings(FolderSettings):
    """The same run's text CAMs, which its panels show beside the others."""

    @property
    def kind(self) -> Path:
        """A folder in the output."""
        return self.output / "text"


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
    return _run(photos, settings, arguments)


def _check_output(arguments: argparse.Namespace) -> None:
    output, photos = arguments.output.resolve(), arguments.photos.resolve()
    if arguments.labels is None and output.is_relative_to(photos):
        raise InputError(
            f"--output {arguments.output} lies in the folder of photos, where a folder's name is a"
            " class: choose one outside"
        )


def _run(photos: PhotoSet, settings: FolderSettings, arguments: argparse.Namespace) -> int:
    failures = photos.failures
    model = load_model(arguments)
    ranks = Ranks(device=str(model.device))
    run: Run[Settings] = Run(photos, settings, model, failures, ranks)
    stages: tuple[Stage, ...] = (Seeds(), Learn(), CAMs(), Masks())
    with reported(failures):
        for stage in stages[0 if settings.learns else 2 :]:
            stage.run(run)
        if settings.pictures:
            text = TextSettings(**{**vars(settings), "prototypes": "text"})
            kinds: dict[str, Settings] = {"text": text, "vision": settings}
            if settings.prototypes == "text":
                kinds = {"text": settings}
            else:
                CAMs().run(dataclasses.replace(run, settings=text))
            shown = [item for item in photos.photos if item.photo not in failures]
            folder = settings.output / "panels"
            save_cam_panels(folder, shown, photos.names.labels, kinds, failures)
            report = settings.output / "report.html"
            title = f"CAMs of {arguments.photos.resolve().name}"
            shown = [item for item in shown if item.photo not in failures]
            save_cam_explorer(report, shown, photos.names.labels, kinds, failures, title)
    done = sum(item.photo not in failures for item in photos.photos)
    logger.info("%d photos are in %s", done, settings.output.resolve())
    if settings.pictures:
        logger.info("Look at %s", (settings.output / "report.html").resolve())
    return 1 if failures else 0
