"""What a run of CLIP-CPAL would take: CLIP-ES's estimates, and those of its own stages."""

from __future__ import annotations

from collections.abc import Sequence

from vpl_plugin.adapters.clip_cpal.stages.bank import bank_file
from vpl_plugin.adapters.clip_cpal.stages.settings import CPALSettings
from vpl_plugin.adapters.clip_es.stages.estimate import Estimate, estimate, seconds_a_photo
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.clip.model import ClipModel

__all__ = ["estimate_cpal"]


def estimate_cpal(
    model: ClipModel, photos: PhotoSet, settings: CPALSettings, stages: Sequence[str]
) -> list[Estimate]:
    """Estimates the stages; writes nothing.

    Args:
        model: the frozen CLIP model, on the device it would run on.
        photos: the set.
        settings: of the run.
        stages: their names.

    Returns:
        An estimate a stage, in their order; "adapt" takes seconds to minutes and has no estimate.
    """
    rows = []
    for stage in stages:
        if stage == "bank":
            left = [item for item in photos.photos if not bank_file(settings, item.name).exists()]
            vectors = sum(len(item.classes) + 1 for item in left) * 4
            vectors += len(left) * 2 * (settings.pixels_per_photo or 1024)
            seconds = len(left) * seconds_a_photo(model, photos)
            rows.append(Estimate(stage, len(left), vectors * model.embed_dim, seconds))
        elif stage == "adapt":
            done = settings.prototypes_file.exists()
            size = len(photos.names.labels) * (settings.clusters + 1) * model.embed_dim * 4
            rows.append(Estimate(stage, 0 if done else len(photos.photos), size, None))
        else:
            rows += estimate(model, photos, settings, [stage])
    return rows
