"""Vision prototypes from the seeds of photos: the step that VPL adds to CLIP-ES."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import photo_cams
from vpl_plugin.adapters.clip_es.drawn_pixels import draw_pixels
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto
from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR
from vpl_plugin.checks import check_count
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.core.pixels import PixelChunk
from vpl_plugin.core.prototypes import PrototypeFit, fit_vision_prototypes
from vpl_plugin.errors import InputError
from vpl_plugin.localization.seeds import seed_targets
from vpl_plugin.prototypes import Prototypes

__all__ = ["learn_from_photos", "learned_prototypes", "seed_pixels"]

# Phi where the refined seeds of photographs are best (docs/evidence.md); the paper's is 0.4.
DEFAULT_THRESHOLD = 0.4


def seed_pixels(
    model: ClipModel,
    photos: Iterable[EncodedPhoto],
    text: Prototypes,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    box_threshold: float = 0.4,
    progress: bool = False,
) -> PixelChunk:
    """Pixel features of photos, with the seeds of their text CAMs as targets (Theorem 3's m_i).

    Args:
        model: the model that encoded the photos.
        photos: encoded photos, read once.
        text: text prototypes, on the model's device.
        threshold: Phi; pixels whose best refined text CAM exceeds it are one-hot at that class.
        pixels_per_photo: how many to draw from each photo; None takes them all. Its name and the
            seed decide which.
        seed: of the draw.
        box_threshold: see :func:`~vpl_plugin.adapters.clip_es.photo_cams`.
        progress: show a progress bar.

    Returns:
        Features (P, D) and targets (P, N), on the model's device.

    Raises:
        ValueError: there is no photo.
    """
    if pixels_per_photo is not None:
        check_count("pixels_per_photo", pixels_per_photo)
    features, targets = [], []
    for photo in tqdm(photos, desc="seeds", unit="photo", disable=not progress):
        cams = photo_cams(model, photo, text, box_threshold=box_threshold)
        target = seed_targets(
            cams.refined, photo.classes, photo.features, text, threshold=threshold
        )
        kept = draw_pixels(len(target), photo.name, pixels_per_photo, seed)
        drawn = torch.from_numpy(kept).to(target.device)
        features.append(photo.features[drawn])
        targets.append(target[drawn])
    if not features:
        raise InputError("photos is empty: vision prototypes need at least one photo")
    return PixelChunk(torch.cat(features), torch.cat(targets))


def learn_from_photos(
    model: ClipModel,
    photos: Iterable[EncodedPhoto],
    text: Prototypes,
    tau_I: float = 0.03,
    *,
    anchor: float = DEFAULT_ANCHOR,
    threshold: float = DEFAULT_THRESHOLD,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    box_threshold: float = 0.4,
    progress: bool = False,
    **options: Any,
) -> tuple[Prototypes, PrototypeFit]:
    """Vision prototypes from photos: seeds of the text CAMs, then Alg. 1 of the VPL paper on them.

    Args:
        model: the model that encoded the photos.
        photos: encoded photos, read once.
        text: text prototypes, on the model's device.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to draw from each photo; None takes them all.
        seed: of the draw.
        box_threshold: see :func:`~vpl_plugin.adapters.clip_es.photo_cams`.
        progress: show a progress bar.
        **options: of :func:`vpl_plugin.learn_vision_prototypes`.

    Returns:
        The vision prototypes, at tau_I, and how they were reached: the traces of loss and gap.

    Raises:
        ValueError: there is no photo, or an option does not fit.

    Example:
        >>> import numpy as np
        >>> from vpl_plugin.adapters.clip_es import encode_photo
        >>> from vpl_plugin.clip import VOC, class_prototypes, load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> photo = encode_photo(model, np.zeros((32, 48, 3), dtype=np.uint8), [0])
        >>> vision, fit = learn_from_photos(model, [photo], class_prototypes(model, VOC))
        >>> vision.rows.shape, vision.temperature, vision.about["kind"]
        (torch.Size([45, 256]), 0.03, 'vision')
    """
    chunk = seed_pixels(
        model,
        photos,
        text,
        threshold=threshold,
        pixels_per_photo=pixels_per_photo,
        seed=seed,
        box_threshold=box_threshold,
        progress=progress,
    )
    fit = fit_vision_prototypes(
        chunk.features, text.rows, tau_I, targets=chunk.targets, anchor=anchor, **options
    )
    facts = {
        # Callbacks and the like have no place in a file.
        **{name: value for name, value in options.items() if isinstance(value, (str, int, float))},
        "tau_I": tau_I,
        "anchor": anchor,
        "threshold": threshold,
        "pixels_per_photo": pixels_per_photo,
        "seed": seed,
        "box_threshold": box_threshold,
    }
    return learned_prototypes(text, fit, tau_I, facts), fit


def learned_prototypes(
    text: Prototypes, fit: PrototypeFit, tau_I: float, facts: Mapping[str, Any]
) -> Prototypes:
    """What was learned from text prototypes, with all that made it.

    Args:
        text: where the fit started.
        fit: how it went. Of its figures "loss", "kl" and "gap" are the vision prototypes', under
            "text_" the text prototypes'.
        tau_I: temperature of the vision distribution.
        facts: of the run; anything JSON can hold.
    """
    about = {
        **text.about,
        **facts,
        "kind": "vision",
        "loss": float(fit.losses[-1]),
        "kl": float(fit.losses[-1] - fit.target_entropy),
        "gap": float(fit.gaps[-1]),
        "text_loss": float(fit.losses[0]),
        "text_gap": float(fit.gaps[0]),
        "passes": fit.passes,
        "stop_reason": fit.stop_reason,
    }
    return Prototypes(fit.prototypes, text.class_names, tau_I, about)
