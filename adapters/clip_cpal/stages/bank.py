"""Stage ``bank``: photos -> CAMs -> instance prototypes, features, a file per photo."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.clip_es.drawn_pixels import draw_pixels
from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.stage_files import read_arrays, write_arrays
from vpl_plugin.adapters.clip_es.stages.cams import chosen_prototypes
from vpl_plugin.adapters.clip_es.stages.photo_batches import localisation_facts, localised_photos
from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.results import Results, photo_digest

__all__ = ["Bank", "ContextStage", "StoredInstances", "read_instances"]


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


class ContextStage(Stage):
    """One of the stages that make the context."""

    needs_model = True

    def is_needed(self, settings: CPALSettings) -> bool:
        """Not where the context of an earlier run is used."""
        return settings.context is None


class Bank(ContextStage):
    """Instance prototypes of every photo, from the CAMs of CLIP-ES's prototypes."""

    name = "bank"

    def run(self, run: Run[CPALSettings]) -> None:
        """Writes the instance prototypes of every photo whose file is not there yet."""
        settings = run.settings
        prototypes = chosen_prototypes(run)
        facts = {
            **localisation_facts(run, "threshold", "pixels_per_photo", "seed"),
            "prototypes": settings.prototypes_source,
        }
        results = Results.claim(settings.bank, facts, alone=run.ranks.alone)

        # Once: it reads the rows, on a GPU with a wait for the device.
        made_with = prototypes.digest

        def inputs(item: SetPhoto) -> str:
            return photo_digest(item.photo, item.classes, made_with)

        for item in localised_photos(
            run,
            prototypes,
            stage=self.name,
            is_done=lambda photo: results.is_made(photo.name, inputs(photo)),
        ):
            features, name = item.features, item.photo.name
            instances = instance_prototypes(features, item.cams.refined, settings.threshold)
            drawn = draw_pixels(len(features), name, settings.pixels_per_photo, settings.seed)
            stored = StoredInstances(
                classes=np.array(item.photo.classes),
                instances=instances.float().cpu().numpy(),
                photo_mean=features.mean(dim=0).float().cpu().numpy(),
                features=features.half().cpu().numpy()[drawn],
            )
            write_arrays(results.new_file(name), stored._asdict(), inputs(item.photo))

    def estimate(self, run: Run[CPALSettings], costs: Costs) -> Estimate:
        """Photos without instance prototypes."""
        results = Results(run.settings.bank)
        left = [item for item in run.photos.photos if not results.file(item.name).exists()]
        vectors = sum(len(item.classes) + 1 for item in left) * 4
        vectors += len(left) * 2 * (run.settings.pixels_per_photo or 1024)
        tokens, seconds = costs.localisation(left)
        size = vectors * run.encoder.embed_dim + tokens
        return Estimate(self.name, len(left), size, seconds)


def read_instances(path: Path) -> StoredInstances:
    """Reads a file of this stage; raises as :func:`read_arrays`."""
    return StoredInstances(**read_arrays(path, StoredInstances._fields))
