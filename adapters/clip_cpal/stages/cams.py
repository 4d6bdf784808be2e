"""Stage ``cams`` of CLIP-CPAL: GradCAM of the trained prototypes, and the prototype-aware CAM."""

from __future__ import annotations

from torch import Tensor

from vpl_plugin.adapters.clip_cpal.context import Context, read_context
from vpl_plugin.adapters.clip_cpal.instances import instance_prototypes
from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.clip_es.cams import CAMStep, PhotoCAMs
from vpl_plugin.adapters.clip_es.stages.cams import CAMs, OwnCAMs, fitting_prototypes
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.errors import InputError
from vpl_plugin.localization.affinity import refine_cams
from vpl_plugin.localization.normalization import min_max
from vpl_plugin.results import digest

__all__ = ["CPALCAMs", "cpal_step"]


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


class CPALCAMs(CAMs):
    """CLIP-ES's stage with the trained prototypes and CPAL's step."""

    def own(self, run: Run[CPALSettings]) -> OwnCAMs:
        """The trained prototypes, and the step made from the context.

        Raises:
            FileNotFoundError: there are no context prototypes.
            ValueError: the prototypes or the context do not fit.
        """
        settings, names, model = run.settings, run.photos.names, run.encoder
        hint = "" if settings.context else ": run the stage 'adapt' first"
        prototypes = fitting_prototypes(model, names, settings.prototypes_file, hint)
        kind = "text" if prototypes.temperature is None else "vision"
        if settings.context is not None and settings.prototypes != kind:
            raise InputError(
                f"{settings.context} was made with {kind} prototypes, so prototypes must be"
                f" {kind!r}; got {settings.prototypes!r}"
            )
        context = read_context(settings.context_file)
        expected = (len(names.labels), model.embed_dim)
        if (len(context.prototypes), len(context.mean)) != expected:
            raise InputError(
                f"{settings.context_file} holds a context of {len(context.prototypes)} classes of"
                f" width {len(context.mean)}; these classes and this model take {expected[0]} of"
                f" {expected[1]}"
            )
        facts = settings.facts("threshold", "top_k", "alignment", "blend")
        step = cpal_step(context.to(model.device), settings, names.box_threshold)
        made_from = digest(settings.context_file.read_bytes())
        return OwnCAMs(prototypes, step, facts, made_from)
