"""Stage ``cams``: raw and refined CAMs from vision or text prototypes, a file a photo."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from vpl_plugin.adapters.clip_es.stage_files import StoredCAMs, write_cams
from vpl_plugin.adapters.clip_es.stages.photo_batches import localised_photos
from vpl_plugin.adapters.clip_es.stages.settings import PROTOTYPES, Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.prototype_files import load_prototypes
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.prompts import text_prototypes
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.run_folder import claim_folder

__all__ = ["cams_file", "run_cams", "used_prototypes"]


def cams_file(settings: Settings, name: str) -> Path:
    """Where the CAMs of a photo lie."""
    return settings.cams / f"{name}.npz"


def run_cams(
    model: ClipModel, photos: PhotoSet, settings: Settings, failures: dict[Path, str]
) -> None:
    """Writes the CAMs of every photo whose file is not there yet.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        settings: of the run.
        failures: gets the photos that cannot be read.

    Raises:
        FileNotFoundError: there are no prototypes.
        ValueError: the folder holds CAMs of other settings, or the prototypes do not fit.
        OSError: a file cannot be written.
    """
    names = photos.names
    prototypes, temperature, digest = used_prototypes(model, photos, settings)
    facts = {
        **settings.source,
        "prototypes": digest,
        "temperature": temperature,
        "parity": settings.parity,
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
        prototypes,
        settings,
        stage="cams",
        num_foreground=len(names.labels),
        temperature=temperature,
        is_done=lambda photo: all(path.exists() for path in files(photo)),
        failures=failures,
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


def used_prototypes(
    model: ClipModel, photos: PhotoSet, settings: Settings
) -> tuple[Tensor, float | None, str]:
    """The prototypes asked for, the temperature GradCAM takes with them, and what identifies them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they do not fit the model or the classes.
    """
    names = photos.names
    Z = text_prototypes(model, [*names.prompts, *names.background])
    if settings.prototypes == "text":
        return Z, None, "text"
    learned = settings.prototypes == "vision"
    file = settings.learned / PROTOTYPES if learned else Path(settings.prototypes)
    if not file.is_file():
        hint = ": run the stage 'learn' first" if learned else ""
        raise FileNotFoundError(f"there are no prototypes at {file}{hint}")
    prototypes, about = load_prototypes(file)
    if prototypes.shape != Z.shape:
        raise ValueError(
            f"{file} holds prototypes of shape {tuple(prototypes.shape)}; these classes and this"
            f" model take {tuple(Z.shape)}"
        )
    if tuple(about.get("classes", names.labels)) != names.labels:
        raise ValueError(f"{file} holds prototypes of other classes than {names.name}'s")
    is_text = about.get("kind") == "text"
    temperature = None if is_text else float(about.get("tau_I", settings.tau_I))
    return prototypes.to(Z.device), temperature, hashlib.sha256(file.read_bytes()).hexdigest()
