"""Stage ``seeds``: photos -> text CAMs -> pixel features with their seeds, a file a photo."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, write_seeds
from vpl_plugin.adapters.clip_es.stages.photo_batches import localised_photos
from vpl_plugin.adapters.clip_es.stages.settings import TEXT_PROTOTYPES, Settings
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.adapters.prototype_files import save_prototypes
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.prompts import class_prototypes
from vpl_plugin.localization.seeds import seed_classes
from vpl_plugin.run_folder import claim_folder

__all__ = ["draw_pixels", "run_seeds", "seeds_file"]


def seeds_file(settings: Settings, name: str) -> Path:
    """Where the seeds of a photo lie."""
    return settings.seeds / f"{name}.npz"


def run_seeds(
    model: ClipModel, photos: PhotoSet, settings: Settings, failures: dict[Path, str]
) -> None:
    """Writes the seeds of every photo whose file is not there yet.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        settings: of the run.
        failures: gets the photos that cannot be read.

    Raises:
        ValueError: the folder holds seeds of other settings.
        OSError: a file cannot be written.
    """
    names = photos.names
    facts = _facts(settings) | {"box_threshold": names.box_threshold}
    claim_folder(settings.seeds, facts, alone=settings.shard[1] == 1)
    Z = class_prototypes(model, names)
    file = settings.seeds / TEXT_PROTOTYPES
    if not file.exists():
        about = {
            "kind": "text",
            "model": model.name,
            "classes": names.labels,
            **names.texts(),
        }
        save_prototypes(file, Z.cpu(), about)
    for item in localised_photos(
        model,
        photos.photos,
        Z,
        settings,
        stage="seeds",
        names=names,
        temperature=None,
        is_done=lambda photo: seeds_file(settings, photo.name).exists(),
        failures=failures,
    ):
        claimed = seed_classes(item.cams.refined, item.photo.classes, settings.threshold)
        seeds = claimed.cpu().numpy()
        drawn = draw_pixels(len(seeds), item.photo.name, settings)
        height, width = item.cams.raw.shape[1:]
        path = seeds_file(settings, item.photo.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_seeds(
            path,
            StoredSeeds(
                features=item.features.half().cpu().numpy()[drawn],
                seeds=seeds[drawn].astype(np.int16),
                pixels=drawn.astype(np.int32),
                grid=(height, width),
            ),
        )


def _facts(settings: Settings) -> dict[str, Any]:
    return {
        **settings.source,
        "threshold": settings.threshold,
        "pixels_per_photo": settings.pixels_per_photo,
        "seed": settings.seed,
        "parity": settings.parity,
    }


def draw_pixels(pixels: int, name: str, settings: Settings) -> np.ndarray:
    """Which of a photo's pixels to keep, ascending; the photo's name and the seed alone decide."""
    kept = settings.pixels_per_photo
    if kept is None or kept >= pixels:
        return np.arange(pixels)
    generator = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
    return np.sort(generator.choice(pixels, kept, replace=False))
