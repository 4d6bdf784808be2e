"""Stage ``cams`` of CLIP-CPAL: GradCAM of the trained prototypes, and the prototype-aware CAM."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from vpl_plugin.adapters.clip_cpal.context import Context, read_context
from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
from vpl_plugin.adapters.clip_cpal.stages.settings import CPALSettings
from vpl_plugin.adapters.clip_es.cams import CAMStep, PhotoCAMs
from vpl_plugin.adapters.clip_es.stages.cams import read_prototypes, run_cams
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.localization.affinity import refine_cams
from vpl_plugin.localization.normalization import min_max

__all__ = ["cpal_step", "run_cpal_cams"]


def cpal_step(context: Context, settings: CPALSettings, box_threshold: float) -> CAMStep:
    """CPAL's CAM step: the classifier's CAM and the prototype-aware one, blended, then refined.

    Args:
        context: on the device of the CAMs.
        settings: threshold, alignment, top_k, blend.
        box_threshold: of the attention affinity.

    Returns:
        What :func:`~vpl_plugin.adapters.clip_es.batch_cams` takes as ``cam_step``.
    """

    def step(
        cams: PhotoCAMs, features: Tensor, attention: Tensor, classes: tuple[int, ...]
    ) -> PhotoCAMs:
        instances = instance_prototypes(features, cams.refined, settings.threshold)
        aware = context.maps(
            features,
            features.mean(dim=0),
            classes,
            instances,
            alignment=settings.alignment,
            top_k=settings.top_k,
        ).view_as(cams.raw)
        raw = min_max((1 - settings.blend) * cams.raw + settings.blend * aware)
        refined = refine_cams(raw, attention, threshold=box_threshold)
        return PhotoCAMs(raw, refined, cams.probabilities)

    return step


def run_cpal_cams(
    model: ClipModel, photos: PhotoSet, settings: CPALSettings, failures: dict[Path, str]
) -> None:
    """Writes the CAMs of every photo whose file is not there yet.

    Args:
        model: the frozen CLIP model.
        photos: the set.
        settings: of the run.
        failures: gets the photos that cannot be read.

    Raises:
        FileNotFoundError: there are no context prototypes.
        ValueError: the folder holds CAMs of other settings, or the prototypes or the context do
            not fit.
        OSError: a file cannot be written.
    """
    hint = "" if settings.context else ": run the stage 'adapt' first"
    used = read_prototypes(model, photos, settings.prototypes_file, settings.tau_I, hint)
    kind = "text" if used.temperature is None else "vision"
    if settings.context is not None and settings.prototypes != kind:
        raise ValueError(
            f"{settings.context} was made with {kind} prototypes, so prototypes must be {kind!r};"
            f" got {settings.prototypes!r}"
        )
    context = read_context(settings.context_file)
    expected = (len(photos.names.labels), model.embed_dim)
    if (len(context.prototypes), len(context.mean)) != expected:
        raise ValueError(
            f"{settings.context_file} holds a context of {len(context.prototypes)} classes of width"
            f" {len(context.mean)}; these classes and this model take {expected[0]} of"
            f" {expected[1]}"
        )
    facts = {
        "context": hashlib.sha256(settings.context_file.read_bytes()).hexdigest(),
        "threshold": settings.threshold,
        "top_k": settings.top_k,
        "alignment": settings.alignment,
        "blend": settings.blend,
    }
    run_cams(
        model,
        photos,
        settings,
        failures,
        used=used,
        cam_step=cpal_step(context.to(model.device), settings, photos.names.box_threshold),
        step_facts=facts,
    )
