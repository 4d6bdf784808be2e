"""CAMs from any prototypes: GradCAM, then attention affinity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto
from vpl_plugin.clip.model import ClipModel, VisionTokens
from vpl_plugin.localization.affinity import mean_attention, refine_cams
from vpl_plugin.localization.gradcam import grad_cam
from vpl_plugin.prototypes import Prototypes

__all__ = ["CAMStep", "PhotoCAMs", "batch_cams", "photo_cams", "token_cams"]


class PhotoCAMs(NamedTuple):
    """The CAMs of the classes present in one photo, in the order of its ``classes``.

    Attributes:
        raw: (K, h, w) GradCAMs in [0, 1].
        refined: (K, h, w), the same after the attention affinity, in [0, 1].
        probabilities: (K,), each class against the others present and all of the background.
    """

    raw: Tensor
    refined: Tensor
    probabilities: Tensor


CAMStep = Callable[[PhotoCAMs, Tensor, Tensor, tuple[int, ...]], PhotoCAMs]
"""What a method built on CLIP-ES makes of a photo's CAMs.

It gets them, the features (h * w, D), the attention (h * w, h * w) and the classes."""


def photo_cams(
    model: ClipModel,
    photo: EncodedPhoto,
    prototypes: Prototypes,
    *,
    box_threshold: float = 0.4,
) -> PhotoCAMs:
    """The CAM step of CLIP-ES with the prototypes given (Eq. 1 of the VPL paper).

    Args:
        model: the model that encoded the photo.
        photo: the encoded photo.
        prototypes: text or vision prototypes, on the model's device.
        box_threshold: of :func:`vpl_plugin.localization.refine_cams`; CLIP-ES takes 0.4 for VOC and
            0.7 for COCO.

    Returns:
        The CAMs, at the resolution of the patch grid.

    Example:
        >>> import numpy as np
        >>> from vpl_plugin.adapters.clip_es import encode_photo
        >>> from vpl_plugin.clip import VOC, class_prototypes, load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> photo = encode_photo(model, np.zeros((32, 48, 3), dtype=np.uint8), [0, 1])
        >>> cams = photo_cams(model, photo, class_prototypes(model, VOC))
        >>> cams.raw.shape, cams.refined.shape
        (torch.Size([2, 2, 3]), torch.Size([2, 2, 3]))
    """
    output = grad_cam(model, photo.tokens, prototypes, [photo.classes])
    raw = output.cams[0]
    refined = refine_cams(raw, photo.attention, threshold=box_threshold)
    return PhotoCAMs(raw, refined, output.probabilities[0])


def batch_cams(
    model: ClipModel,
    pixels: Tensor,
    classes: Sequence[Sequence[int]],
    prototypes: Prototypes,
    *,
    box_threshold: float = 0.4,
    position_dtype: torch.dtype | None = None,
    cam_step: CAMStep | None = None,
) -> list[tuple[PhotoCAMs, Tensor]]:
    """CAMs and dense features of photos of equal size, each block of the encoder run once.

    Args:
        model: the frozen CLIP model.
        pixels: (B, 3, H, W), as ``model.preprocess`` gives them.
        classes: for each photo the indices of the classes present.
        prototypes: text or vision prototypes, on the model's device.
        box_threshold: see :func:`photo_cams`.
        position_dtype: see :func:`vpl_plugin.adapters.clip_es.encode_photo`.
        cam_step: gives the CAMs that are returned in the place of CLIP-ES's own.

    Returns:
        For each photo its CAMs and its features (h * w, D), unit rows.

    Example:
        >>> from vpl_plugin.clip import VOC, class_prototypes, load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> pixels, text = torch.zeros(2, 3, 32, 48), class_prototypes(model, VOC)
        >>> done = batch_cams(model, pixels, [[0], [0, 1]], text)
        >>> [tuple(cams.refined.shape) for cams, _ in done]
        [(1, 2, 3), (2, 2, 3)]
    """
    tokens = model.tokens_before_last_block(pixels, position_dtype=position_dtype)
    return token_cams(
        model, tokens, classes, prototypes, box_threshold=box_threshold, cam_step=cam_step
    )


def token_cams(
    model: ClipModel,
    tokens: VisionTokens,
    classes: Sequence[Sequence[int]],
    prototypes: Prototypes,
    *,
    box_threshold: float = 0.4,
    cam_step: CAMStep | None = None,
) -> list[tuple[PhotoCAMs, Tensor]]:
    """What :func:`batch_cams` does after all blocks but the last.

    Args:
        model: the frozen CLIP model.
        tokens: of B photos, with the attention of the earlier blocks.
        classes: see :func:`batch_cams`.
        prototypes: see :func:`batch_cams`.
        box_threshold: see :func:`photo_cams`.
        cam_step: see :func:`batch_cams`.

    Returns:
        For each photo its CAMs and its features (h * w, D), unit rows.

    Example:
        >>> from vpl_plugin.clip import VOC, class_prototypes, load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> tokens = model.tokens_before_last_block(torch.zeros(1, 3, 32, 48))
        >>> ((cams, features),) = token_cams(model, tokens, [[0]], class_prototypes(model, VOC))
        >>> cams.refined.shape, features.shape
        (torch.Size([1, 2, 3]), torch.Size([6, 256]))
    """
    output = grad_cam(model, tokens, prototypes, classes)
    attention = mean_attention(tokens.attention, output.attention)
    refined = refine_cams(output.cams, attention, threshold=box_threshold)
    done = []
    for b, present in enumerate(classes):
        k = len(present)
        cams = PhotoCAMs(output.cams[b, :k], refined[b, :k], output.probabilities[b, :k])
        if cam_step is not None:
            cams = cam_step(cams, output.features[b], attention[b], tuple(present))
        done.append((cams, output.features[b]))
    return done
