"""CLIP-ES's stages on a folder of the user's own photos, with panels and a report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stages import CAMs, Learn, Masks, Seeds
from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.adapters.pipeline.run import Run, Stage, run_together
from vpl_plugin.clip import ClipModel
from vpl_plugin.distributed import Ranks
from vpl_plugin.plots.cam_explorer import save_cam_explorer
from vpl_plugin.plots.cam_panels import save_cam_panels

__all__ = ["FolderSettings", "folder_cams"]


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


def folder_cams(
    model: ClipModel,
    photos: PhotoSet,
    settings: FolderSettings,
    failures: dict[Path, str],
    *,
    title: str,
) -> None:
    """Makes what is not there yet: seeds, prototypes, CAMs, masks; then pictures of them.

    Args:
        model: the encoder.
        photos: of the folder.
        settings: of the stages.
        failures: gets the photos that could not be done.
        title: of the report.

    Raises:
        FileNotFoundError, InputError: the prototypes asked for do not fit, or the output holds
            results of other settings.
        OSError: a file cannot be written.
    """
    run: Run[Settings] = Run(photos, settings, model, failures, Ranks(device=str(model.device)))
    stages: tuple[Stage, ...] = (Seeds(), Learn(), CAMs(), Masks())
    run_together(stages[0 if settings.learns else 2 :], run)
    if not settings.pictures:
        return
    kinds: dict[str, Settings] = {"text": settings}
    if settings.prototypes != "text":
        text = TextSettings(**{**vars(settings), "prototypes": "text"})
        CAMs().run(dataclasses.replace(run, settings=text))
        kinds = {"text": text, "vision": settings}
    labels = photos.names.labels
    shown = [item for item in photos.photos if item.photo not in failures]
    save_cam_panels(settings.output / "panels", shown, labels, kinds, failures)
    shown = [item for item in shown if item.photo not in failures]
    save_cam_explorer(settings.output / "report.html", shown, labels, kinds, failures, title)
