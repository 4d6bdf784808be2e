"""Pseudo-masks: refined CAMs, sharpened by a dense CRF, unsure pixels ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.checks import check_cams, check_fraction, check_photo, class_vector
from vpl_plugin.errors import InputError
from vpl_plugin.localization.crf import dense_crf
from vpl_plugin.localization.seeds import background_score

__all__ = ["pseudo_mask"]


def pseudo_mask(
    photo: np.ndarray,
    cams: Tensor,
    classes: Tensor | Sequence[int],
    *,
    power: float = 1.0,
    confidence: float = 0.95,
    ignore_index: int = 255,
    **crf_settings: Any,
) -> np.ndarray:
    """A mask to train a segmentation network with, as CLIP-ES makes it.

    The background's score joins the CAMs, a dense CRF sharpens them along the photo's edges, and
    the best class wins where its probability reaches ``confidence``.

    Args:
        photo: (H, W, 3) uint8, RGB; :func:`clip_es_photo` of it for upstream's exact results.
        cams: (K, H, W) in [0, 1], refined and resized to the photo.
        classes: (K,) class indices of the maps.
        power: of :func:`background_score`.
        confidence: in [0, 1]; 0 ignores no pixel.
        ignore_index: label of the pixels left out, in [0, 255].
        **crf_settings: keyword arguments of :func:`dense_crf`.

    Returns:
        (H, W) uint8: 0 for background, c + 1 for class c, ``ignore_index`` where unsure.

    Raises:
        ImportError: the CRF's backend ``pydensecrf`` is asked for and not installed.
        TypeError: inputs of the wrong kind.
        InputError: shapes that do not fit, a class whose label collides with ``ignore_index`` or
            does not fit in 8 bits, settings out of range.

    Example:
        >>> photo = np.zeros((2, 3, 3), np.uint8)
        >>> pseudo_mask(photo, torch.ones(1, 2, 3), [4], confidence=0.9)
        array([[5, 5, 5],
               [5, 5, 5]], dtype=uint8)
    """
    check_photo(photo)
    check_cams(cams)
    if cams.ndim != 3 or cams.shape[1:] != photo.shape[:2]:
        raise InputError(
            f"cams must have shape (K, {photo.shape[0]}, {photo.shape[1]}), that of the photo (see"
            f" resize_cams); got {tuple(cams.shape)}"
        )
    check_fraction("confidence", confidence)
    if not 0 <= ignore_index <= 255:
        raise InputError(f"ignore_index must lie in [0, 255]; got {ignore_index}")
    labels = np.append(0, class_vector(classes, cams).cpu().numpy() + 1)
    if not ((labels[1:] > 0) & (labels[1:] < 256) & (labels[1:] != ignore_index)).all():
        raise InputError(
            "classes must be indices c whose label c + 1 fits in 8 bits and is not the ignore_index"
            f" {ignore_index}; got {(labels[1:] - 1).tolist()}"
        )

    scores = torch.cat([background_score(cams, power), cams]).float().cpu().numpy()
    probabilities = dense_crf(photo, scores, **crf_settings)
    mask = labels[probabilities.argmax(axis=0)].astype(np.uint8)
    mask[probabilities.max(axis=0) < confidence] = ignore_index
    return mask
