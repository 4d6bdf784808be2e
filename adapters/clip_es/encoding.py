"""Photos through the frozen encoder, once: what every later step of CLIP-ES needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpl_plugin.clip.model import ClipModel, VisionTokens
from vpl_plugin.errors import InputError
from vpl_plugin.localization.affinity import mean_attention

__all__ = ["EncodedPhoto", "encode_photo"]


class EncodedPhoto(NamedTuple):
    """A photo as the pipeline sees it; 4 (h w)^2 bytes of it are the attention.

    Attributes:
        name: what reports call it.
        size: (height, width) of the photo in pixels.
        classes: indices of the foreground classes present.
        tokens: what enters the encoder's last block, of this photo alone.
        attention: (h * w, h * w), the mean over the last eight blocks, the last one included.
        features: (h * w, D) dense features, unit rows.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[int, ...]
    tokens: VisionTokens
    attention: Tensor
    features: Tensor

    def to(self, device: torch.device | str) -> EncodedPhoto:
        """The same photo on a device."""
        tokens = self.tokens._replace(
            tokens=self.tokens.tokens.to(device), attention=self.tokens.attention.to(device)
        )
        return self._replace(
            tokens=tokens,
            attention=self.attention.to(device),
            features=self.features.to(device),
        )


def encode_photo(
    model: ClipModel,
    photo: Image.Image | np.ndarray,
    classes: Sequence[int],
    *,
    name: str = "",
    position_dtype: torch.dtype | None = None,
) -> EncodedPhoto:
    """Encodes one photo, resized so that each side is the next multiple of the patch size.

    Args:
        model: the frozen CLIP model.
        photo: a PIL image, or (H, W, 3) uint8.
        classes: indices of the foreground classes present, at least one.
        name: what reports call the photo.
        position_dtype: ``torch.float16`` rounds the resized positional embedding as upstream
            CLIP-ES does; None keeps it exact.

    Returns:
        The encoded photo, on the model's device.

    Raises:
        ValueError: no class is given.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> photo = np.zeros((30, 45, 3), dtype=np.uint8)
        >>> encoded = encode_photo(load_clip("mini", device="cpu"), photo, [0])
        >>> encoded.tokens.grid, encoded.size, encoded.features.shape
        ((2, 3), (30, 45), torch.Size([6, 256]))
    """
    if len(classes) == 0:
        raise InputError(
            f"classes of photo {name!r} must name at least one class present; got none"
        )
    size = (photo.height, photo.width) if isinstance(photo, Image.Image) else photo.shape[:2]
    with torch.no_grad():
        tokens = model.tokens_before_last_block(
            model.preprocess(photo)[None], position_dtype=position_dtype
        )
        output, last_attention = model.after_norm(
            tokens.tokens, model.last_block_norm(tokens.tokens)
        )
        attention = mean_attention(tokens.attention, last_attention)[0]
        features = torch.nn.functional.normalize(model.project(output)[0], dim=1)
    # The mean is all that later steps read; the single maps would be eight times its size.
    kept = tokens._replace(attention=tokens.attention[:, :0])
    return EncodedPhoto(name, size, tuple(classes), kept, attention, features)
