"""Vision prototypes from the seeds of photos: the step that VPL adds to CLIP-ES."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import photo_cams
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.core.checks import check_count
from vpl_plugin.core.pixels import PixelChunk
from vpl_plugin.core.prototypes import PrototypeFit, learn_vision_prototypes
from vpl_plugin.localization.seeds import seed_targets

__all__ = ["learn_from_photos", "seed_pixels"]

# Phi where the refined seeds of photographs are best (docs/evidence.md); the paper's is 0.4.
DEFAULT_THRESHOLD = 0.4
# As good as any at 5 to 467 photos (docs/evidence.md).
DEFAULT_ANCHOR = 0.1


def seed_pixels(
    model: ClipModel,
    photos: Iterable[EncodedPhoto],
    text_prototypes: Tensor,
    *,
    num_foreground: int,
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
        text_prototypes: (N, D), the foreground rows, then the background's.
        num_foreground: number of foreground rows.
        threshold: Phi; pixels whose best refined text CAM exceeds it are one-hot at that class.
        pixels_per_photo: how many to draw from each photo; None takes them all.
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
    generator = torch.Generator().manual_seed(seed)
    features, targets = [], []
    for photo in tqdm(photos, desc="seeds", unit="photo", disable=not progress):
        cams = photo_cams(
            model,
            photo,
            text_prototypes,
            num_foreground=num_foreground,
            box_threshold=box_threshold,
        )
        target = seed_targets(
            cams.refined,
            photo.classes,
            photo.features,
            text_prototypes,
            num_foreground=num_foreground,
            threshold=threshold,
        )
        drawn = torch.randperm(len(target), generator=generator)[:pixels_per_photo].to(
            target.device
        )
        features.append(photo.features[drawn])
        targets.append(target[drawn])
    if not features:
        raise ValueError("photos is empty: vision prototypes need at least one photo")
    return PixelChunk(torch.cat(features), torch.cat(targets))


def learn_from_photos(
    model: ClipModel,
    photos: Iterable[EncodedPhoto],
    text_prototypes: Tensor,
    tau_I: float = 0.03,
    *,
    num_foreground: int,
    anchor: float = DEFAULT_ANCHOR,
    threshold: float = DEFAULT_THRESHOLD,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    box_threshold: float = 0.4,
    progress: bool = False,
    **options: Any,
) -> PrototypeFit:
    """Vision prototypes from photos: seeds of the text CAMs, then Alg. 1 of the VPL paper on them.

    Args:
        model: the model that encoded the photos.
        photos: encoded photos, read once.
        text_prototypes: (N, D), the foreground rows, then the background's.
        tau_I: temperature of the vision distribution.
        num_foreground: number of foreground rows.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to draw from each photo; None takes them all.
        seed: of the draw.
        box_threshold: see :func:`~vpl_plugin.adapters.clip_es.photo_cams`.
        progress: show a progress bar.
        **options: of :func:`vpl_plugin.learn_vision_prototypes`.

    Returns:
        The prototypes (N, D), foreground rows first, with the traces of loss and gap.

    Raises:
        ValueError: there is no photo, or an option does not fit.
    """
    chunk = seed_pixels(
        model,
        photos,
        text_prototypes,
        num_foreground=num_foreground,
        threshold=threshold,
        pixels_per_photo=pixels_per_photo,
        seed=seed,
        box_threshold=box_threshold,
        progress=progress,
    )
    return learn_vision_prototypes(
        chunk.features,
        text_prototypes,
        tau_I,
        targets=chunk.targets,
        anchor=anchor,
        full_output=True,
        **options,
    )
