"""The embedded model "mini": a small image-text model shaped like OpenAI's CLIP ViT.

Parameter names are OpenAI's; only ``visual.conv1`` is a convolutional stem instead of one
convolution. ``weights/MODEL_CARD.md`` says how it was trained and what it is good for.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.clip.attention import self_attention
from vpl_plugin.clip.efficientnet_lite import EfficientNetLiteStem

__all__ = ["MiniClip", "load_mini"]

EMBED_DIM = 256
VISION_WIDTH = 192
TEXT_WIDTH = 128
LAYERS = 2
GRID = 14
VOCABULARY = 49408
CONTEXT = 77
HEAD_WIDTH = 64


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """A pre-norm transformer block over tokens (B, L, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        x = x + self_attention(self.attn, self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks; ``resblocks`` is the name OpenAI's checkpoints use."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width) for _ in range(LAYERS))

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        for block in self.resblocks:
            x = block(x, causal=causal)
        return x


class MiniVisual(nn.Module):
    """The parts of the vision tower; :class:`~vpl_plugin.clip.vision_tower.VisionTower` runs them.

    The image embedding is the mean over patch tokens after ``ln_post`` and ``proj``; the class
    token was not trained to carry it.
    """

    patch_size = EfficientNetLiteStem.patch_size

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = EfficientNetLiteStem(VISION_WIDTH)
        self.class_embedding = nn.Parameter(torch.zeros(VISION_WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + GRID * GRID, VISION_WIDTH))
        self.ln_pre = nn.LayerNorm(VISION_WIDTH)
        self.transformer = Transformer(VISION_WIDTH)
        self.ln_post = nn.LayerNorm(VISION_WIDTH)
        self.proj = nn.Parameter(torch.zeros(VISION_WIDTH, EMBED_DIM))


class MiniClip(nn.Module):
    """Both towers of the embedded model."""

    context_length = CONTEXT
    vocab_size = VOCABULARY

    def __init__(self) -> None:
        super().__init__()
        self.visual = MiniVisual()
        self.token_embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, TEXT_WIDTH))
        self.transformer = Transformer(TEXT_WIDTH)
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(TEXT_WIDTH, EMBED_DIM))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (T, 77) to embeddings (T, 256), read off at the end-of-text token."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x, causal=True))
        # The end-of-text token has the largest id of the vocabulary.
        ends = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        return F.linear(ends, self.text_projection.T)


def load_mini() -> MiniClip:
    """The embedded model in float32, on the CPU.

    Example:
        >>> sum(parameter.numel() for parameter in load_mini().parameters())
        12163065
    """
    from safetensors.torch import load

    weights = resources.files("vpl_plugin.clip") / "weights" / "mini_clip.safetensors"
    model = MiniClip()
    # The file is float16; this copies into the model's float32.
    model.load_state_dict(load(weights.read_bytes()))
    # The stem's convolutions take about half the time in this layout, on a CPU.
    model.visual.conv1.to(memory_format=torch.channels_last)
    return model
