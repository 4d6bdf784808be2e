"""The decoder's embedding of each region of a photo whose mask is known."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpl_plugin.clip.preprocess import PixelArray
from vpl_plugin.core.masked_pooling import masked_average_pooling
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.segmentation.checkpoints import Segmenter

__all__ = ["region_embeddings"]


def region_embeddings(
    segmenter: Segmenter, photo: Image.Image | PixelArray, mask: np.ndarray
) -> tuple[Tensor, Tensor]:
    """One embedding for each class in a mask: Eq. 12 of the VPL paper with the mask in place of A.

    Args:
        segmenter: a trained decoder on its encoder.
        photo: a PIL image, or an array (H, W, 3) of uint8.
        mask: (H, W) uint8 labels: 0 background, 1 + n foreground class n, 255 unknown. The true
            mask or a predicted one.

    Returns:
        Embeddings (K, D) float32 and classes (K,) int64 from 0, of the K foreground classes in the
        mask, both on the CPU. A region counts in each cell of the decoder's grid by the share of
        the cell that it covers.

    Raises:
        InputError: the mask is not of the photo's size, or holds a class beyond F.
    """
    size = (photo.height, photo.width) if isinstance(photo, Image.Image) else photo.shape[:2]
    if mask.shape != tuple(size):
        raise InputError(f"mask must be of the photo's size {tuple(size)}; got {mask.shape}")
    found = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1).nonzero()[0]
    labels = torch.from_numpy(found[(found != 0) & (found != IGNORE_INDEX)])
    if len(labels) and labels.max() > len(segmenter.classes):
        raise InputError(
            f"mask must hold labels up to {len(segmenter.classes)}, or {IGNORE_INDEX}; got"
            f" {int(labels.max())}"
        )
    embeddings = segmenter.output(segmenter.model.preprocess(photo)[None]).embeddings
    if not len(labels):
        return embeddings.new_empty(0, embeddings.shape[1]).cpu(), labels
    of_class = torch.from_numpy(mask)[None] == labels[:, None, None]
    height, width = embeddings.shape[2:]
    weights = F.adaptive_avg_pool2d(of_class.float()[None], (height, width))
    return masked_average_pooling(embeddings, weights.to(embeddings.device))[0].cpu(), labels - 1
