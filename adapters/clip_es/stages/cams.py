"""Stage ``cams``: raw and refined CAMs from vision or text prototypes, a file per photo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vpl_plugin.adapters.clip_es.cams import CAMStep
from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.pixel_probabilities import pixel_probabilities
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import StoredCAMs, write_cams, write_probabilities
from vpl_plugin.adapters.clip_es.stages.photo_batches import (
    LocalisedPhoto,
    localisation_facts,
    localised_photos,
)
from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.clip.class_names import ClassNames
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.prompts import class_prototypes
from vpl_plugin.errors import InputError
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results, photo_digest

__all__ = ["CAMs", "OwnCAMs", "chosen_prototypes", "fitting_prototypes"]


class OwnCAMs(NamedTuple):
    """What a method built on CLIP-ES makes of the CAMs.

    Attributes:
        prototypes: that GradCAM is given.
        step: what is done to each photo's CAMs; None leaves them.
        settings: of the step; anything JSON can hold.
        inputs: what else the step is made from, as a digest.
    """

    prototypes: Prototypes
    step: CAMStep | None = None
    settings: Mapping[str, Any] = {}
    inputs: str = ""


class CAMs(Stage):
    """The CAM step of CLIP-ES with the prototypes asked for (Eq. 1 of the VPL paper)."""

    name = "cams"
    needs_model = True

    def own(self, run: Run[Any]) -> OwnCAMs:
        """The seam for a method built on CLIP-ES: its prototypes, and its own step, if any."""
        return OwnCAMs(chosen_prototypes(run))

    def run(self, run: Run[Settings]) -> None:
        """Writes the CAMs of every photo whose file is not there yet."""
        settings, names = run.settings, run.photos.names
        own = self.own(run)
        facts = {
            **localisation_facts(run),
            "prototypes": settings.prototypes_source,
            **own.settings,
        }
        results = Results.claim(settings.cams, facts, alone=run.ranks.alone)
        upstream = Results(settings.upstream_cams)
        if settings.upstream_files:
            Results.claim(settings.upstream_cams, facts, alone=run.ranks.alone)
        probabilities = None
        if settings.probabilities is not None:
            probabilities = Results.claim(settings.probabilities, facts, alone=run.ranks.alone)

        # Once: it reads the rows, on a GPU with a wait for the device.
        made_with = (own.prototypes.digest, own.inputs)

        def inputs(item: SetPhoto) -> str:
            return photo_digest(item.photo, item.classes, *made_with)

        def is_done(photo: SetPhoto) -> bool:
            made_from = inputs(photo)
            if settings.upstream_files and not upstream.file(photo.name, ".npy").exists():
                return False
            if probabilities is not None and not probabilities.is_made(photo.name, made_from):
                return False
            return results.is_made(photo.name, made_from)

        for item in localised_photos(
            run, own.prototypes, stage=self.name, is_done=is_done, cam_step=own.step
        ):
            classes, made_from = item.photo.classes, inputs(item.photo)
            if settings.upstream_files:
                # First: the other file says what both were made from.
                _write_upstream(upstream.new_file(item.photo.name, ".npy"), item)
            if probabilities is not None:
                of_pixels = pixel_probabilities(
                    item.features, own.prototypes, classes, 1 / run.encoder.logit_scale
                )
                grid = item.cams.raw.shape[1:]
                path = probabilities.new_file(item.photo.name)
                write_probabilities(path, of_pixels.unflatten(1, grid), made_from)
            write_cams(
                results.new_file(item.photo.name),
                StoredCAMs(classes, item.cams.raw, item.cams.refined, item.size),
                made_from,
                [names.labels[index] for index in classes],
            )
            if run.hand_on is not None:
                run.hand_on(item.photo, made_from)

    def estimate(self, run: Run[Settings], costs: Costs) -> Estimate:
        """Photos without CAMs."""
        results = Results(run.settings.cams)
        left = [item for item in run.photos.photos if not results.file(item.name).exists()]
        size = costs.classes * costs.pixels * 8
        if run.settings.upstream_files:
            size += costs.classes * costs.area * 2
        tokens, seconds = costs.localisation(left)
        return Estimate(self.name, len(left), len(left) * size + tokens, seconds)


def chosen_prototypes(run: Run[Any]) -> Prototypes:
    """The prototypes that the settings ask for, on the model's device.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they do not fit the model or the classes.
    """
    settings, names = run.settings, run.photos.names
    if settings.prototypes == "text":
        return class_prototypes(run.encoder, names)
    hint = ": run the stage 'learn' first" if settings.prototypes == "vision" else ""
    return fitting_prototypes(run.encoder, names, settings.chosen_file, hint)


def fitting_prototypes(
    model: ClipModel, names: ClassNames, file: Path, hint: str = ""
) -> Prototypes:
    """Prototypes of a file, on the model's device, once they fit the model and the classes.

    Args:
        model: the frozen CLIP model.
        names: the classes.
        file: a .safetensors.
        hint: what the error says of a missing file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they do not fit.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there are no prototypes at {file}{hint}")
    prototypes = Prototypes.load(file)
    prototypes.check_classes(names.labels, file)
    shape = (len(names.labels) + len(names.background), model.embed_dim)
    if prototypes.rows.shape != shape:
        background = prototypes.about.get("background", names.background)
        hint = "" if list(background) == list(names.background) else f": pass --texts {file}"
        raise InputError(
            f"{file} holds prototypes of shape {tuple(prototypes.rows.shape)}; these classes and"
            f" this model take {shape}{hint and ', and it was made with other background names'}"
            f"{hint}"
        )
    return prototypes.to(model.device)


def _write_upstream(path: Path, item: LocalisedPhoto) -> None:
    # Only this option needs upstream's pickled format.
    from vpl_plugin.adapters.clip_es.upstream.cam_files import write_upstream_cams

    resized = resize_cams(item.cams.refined, item.size).float().cpu().numpy()
    write_upstream_cams(path, list(item.photo.classes), resized)
