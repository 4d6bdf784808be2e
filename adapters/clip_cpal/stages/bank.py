"""Stage ``bank``: photos -> CAMs -> instance prototypes, features, a file a photo."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
from vpl_plugin.adapters.clip_cpal.stages.settings import CPALSettings
from vpl_plugin.adapters.clip_es.stages.cams import UsedPrototypes, used_prototypes
from vpl_plugin.adapters.clip_es.stages.photo_batches import localised_photos
from vpl_plugin.adapters.clip_es.stages.seeds import draw_pixels
from vpl_plugin.adapters.clip_es.stages.settings import Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.run_folder import claim_folder

__all__ = ["StoredInstances", "bank_file", "read_instances", "run_bank", "start_prototypes"]


class StoredInstances(NamedTuple):
    """What the bank is offered of a photo.

    Attributes:
        classes: (K,) class indices.
        instances: (K, D) float32, the masked means of the features.
        photo_mean: (D,) float32, the mean of all features.
        features: (p, D) float16, a sample of them, unit rows to rounding.
    """

    classes: np.ndarray
    instances: np.ndarray
    photo_mean: np.ndarray
    features: np.ndarray


def bank_file(settings: CPALSettings, name: str) -> Path:
    """Where the instance prototypes of a photo lie."""
    return settings.bank / f"{name}.npz"


def start_prototypes(model: ClipModel, photos: PhotoSet, settings: CPALSettings) -> UsedPrototypes:
    """The prototypes that the bank's CAMs are made from: CLIP-ES's, before the training."""
    return used_prototypes(model, photos, _as_clip_es(settings))


def run_bank(
    model: ClipModel, photos: PhotoSet, settings: CPALSettings, failures: dict[Path, str]
) -> None:
    """Writes the instance prototypes of every photo whose file is not there yet.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        settings: of the run.
        failures: gets the photos that cannot be read.

    Raises:
        FileNotFoundError: there are no prototypes.
        ValueError: the folder holds results of other settings, or the prototypes do not fit.
        OSError: a file cannot be written.
    """
    used = start_prototypes(model, photos, settings)
    facts = {
        **settings.source,
        "prototypes": used.digest,
        "temperature": used.temperature,
        "box_threshold": photos.names.box_threshold,
        "threshold": settings.threshold,
        "pixels_per_photo": settings.pixels_per_photo,
        "seed": settings.seed,
        "parity": settings.parity,
    }
    claim_folder(settings.bank, facts, alone=settings.shard[1] == 1)
    for item in localised_photos(
        model,
        photos.photos,
        used.rows,
        settings,
        stage="bank",
        names=photos.names,
        temperature=used.temperature,
        is_done=lambda photo: bank_file(settings, photo.name).exists(),
        failures=failures,
    ):
        instances = instance_prototypes(item.features, item.cams.refined, settings.threshold)
        drawn = draw_pixels(len(item.features), item.photo.name, settings)
        stored = StoredInstances(
            classes=np.array(item.photo.classes),
            instances=instances.float().cpu().numpy(),
            photo_mean=item.features.mean(dim=0).float().cpu().numpy(),
            features=item.features.half().cpu().numpy()[drawn],
        )
        path = bank_file(settings, item.photo.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            np.savez(part, **stored._asdict())


def read_instances(path: Path) -> StoredInstances:
    """Reads a file of this stage.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return StoredInstances(*(stored[name] for name in StoredInstances._fields))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is broken; delete it and run its stage again: {error}") from error


def _as_clip_es(settings: CPALSettings) -> Settings:
    """The same run without CPAL: its prototypes are those that CPAL starts from."""
    return Settings(output=settings.output, prototypes=settings.prototypes, tau_I=settings.tau_I)
