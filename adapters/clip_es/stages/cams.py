"""Stage ``cams``: raw and refined CAMs from vision or text prototypes, a file a photo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vpl_plugin.adapters.clip_es.cams import CAMStep
from vpl_plugin.adapters.clip_es.stage_files import StoredCAMs, write_cams
from vpl_plugin.adapters.clip_es.stages.photo_batches import localised_photos
from vpl_plugin.adapters.clip_es.stages.settings import Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.prototype_files import load_prototypes
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.prompts import class_prototypes
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.run_folder import claim_folder

__all__ = ["UsedPrototypes", "cams_file", "read_prototypes", "run_cams", "used_prototypes"]


class UsedPrototypes(NamedTuple):
    """What GradCAM is given.

    Attributes:
        rows: (N, D), the foreground rows, then the background's, on the model's device.
        temperature: of GradCAM's softmax; None is CLIP's own.
        digest: what identifies them: "text", or the hash of their file.
    """

    rows: Tensor
    temperature: float | None
    digest: str


def cams_file(settings: Settings, name: str) -> Path:
    """Where the CAMs of a photo lie."""
    return settings.cams / f"{name}.npz"


def run_cams(
    model: ClipModel,
    photos: PhotoSet,
    settings: Settings,
    failures: dict[Path, str],
    *,
    used: UsedPrototypes | None = None,
    cam_step: CAMStep | None = None,
    step_facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes the CAMs of every photo whose file is not there yet.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        settings: of the run.
        failures: gets the photos that cannot be read.
        used: the prototypes; None takes :func:`used_prototypes`.
        cam_step: what a method built on CLIP-ES makes of the CAMs.
        step_facts: all that ``cam_step`` depends on; anything JSON can hold.

    Raises:
        FileNotFoundError: there are no prototypes.
        ValueError: the folder holds CAMs of other settings, or the prototypes do not fit.
        OSError: a file cannot be written.
    """
    names = photos.names
    used = used or used_prototypes(model, photos, settings)
    facts = {
        **settings.source,
        "prototypes": used.digest,
        "temperature": used.temperature,
        "box_threshold": names.box_threshold,
        "parity": settings.parity,
        **(step_facts or {}),
    }
    claim_folder(settings.cams, facts, alone=settings.shard[1] == 1)
    if settings.upstream_files:
        claim_folder(settings.upstream_cams, facts, alone=settings.shard[1] == 1)

    def files(photo: SetPhoto) -> list[Path]:
        own = [cams_file(settings, photo.name)]
        if settings.upstream_files:
            own.append(settings.upstream_cams / f"{photo.name}.npy")
        return own

    for item in localised_photos(
        model,
        photos.photos,
        used.rows,
        settings,
        stage="cams",
        names=names,
        temperature=used.temperature,
        is_done=lambda photo: all(path.exists() for path in files(photo)),
        failures=failures,
        cam_step=cam_step,
    ):
        paths = files(item.photo)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        classes = item.photo.classes
        write_cams(paths[0], StoredCAMs(classes, item.cams.raw, item.cams.refined, item.size))
        if settings.upstream_files:
            # Only this option needs upstream's pickled format.
            from vpl_plugin.adapters.clip_es.upstream_cams import write_upstream_cams

            resized = resize_cams(item.cams.refined, item.size).float().cpu().numpy()
            write_upstream_cams(paths[1], list(classes), resized)


def used_prototypes(model: ClipModel, photos: PhotoSet, settings: Settings) -> UsedPrototypes:
    """The prototypes asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they do not fit the model or the classes.
    """
    names = photos.names
    if settings.prototypes == "text":
        return UsedPrototypes(class_prototypes(model, names), None, "text")
    hint = ": run the stage 'learn' first" if settings.prototypes == "vision" else ""
    return read_prototypes(model, photos, settings.prototypes_file, settings.tau_I, hint)


def read_prototypes(
    model: ClipModel, photos: PhotoSet, file: Path, tau_I: float, hint: str = ""
) -> UsedPrototypes:
    """Prototypes of a file, once they fit the model and the classes.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        file: a .safetensors.
        tau_I: the temperature, where the file's JSON names none.
        hint: what the error says of a missing file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they do not fit.
    """
    names = photos.names
    if not file.is_file():
        raise FileNotFoundError(f"there are no prototypes at {file}{hint}")
    prototypes, about = load_prototypes(file)
    shape = (len(names.labels) + len(names.background), model.embed_dim)
    if prototypes.shape != shape:
        background = about.get("background", names.background)
        hint = "" if list(background) == list(names.background) else f": pass --texts {file}"
        raise ValueError(
            f"{file} holds prototypes of shape {tuple(prototypes.shape)}; these classes and this"
            f" model take {shape}{hint and ', and it was made with other background names'}{hint}"
        )
    if tuple(about.get("classes", names.labels)) != names.labels:
        raise ValueError(f"{file} holds prototypes of other classes than {names.name}'s")
    is_text = about.get("kind") == "text"
    temperature = None if is_text else float(about.get("tau_I", tau_I))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return UsedPrototypes(prototypes.to(model.device), temperature, digest)
