"""The convolutional stem of the embedded model: an EfficientNet-Lite2 trunk at stride 16.

EfficientNet-Lite (Tan and Le 2019, in the variant for mobile devices) has no squeeze and
excitation and uses ReLU6; here its batch norms are folded into the convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.clip.preprocess import CLIP_MEAN, CLIP_STD

__all__ = ["EfficientNetLiteStem"]


class BlockSpec(NamedTuple):
    """One inverted residual block."""

    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int


class StageSpec(NamedTuple):
    """Consecutive blocks that share everything but the first one's stride and width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    out_channels: int


_FIRST_CHANNELS = 32
_LITE2_STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(3, 3, 2, 6, 24),
    StageSpec(3, 5, 2, 6, 48),
    StageSpec(4, 3, 2, 6, 88),
    StageSpec(4, 5, 1, 6, 120),
    StageSpec(5, 5, 2, 6, 208),
    StageSpec(1, 3, 1, 6, 352),
)


def _block_specs(stages: tuple[StageSpec, ...]) -> list[BlockSpec]:
    specs = []
    channels = _FIRST_CHANNELS
    for stage in stages:
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            spec = BlockSpec(stage.kernel, stride, stage.expansion, channels, stage.out_channels)
            specs.append(spec)
            channels = stage.out_channels
    return specs


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does, at any input size.

    The padding that stride 2 needs may be one pixel larger at the bottom and right, which
    ``nn.Conv2d`` cannot express.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            height, width = (
                max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
            )
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project back by 1x1; a shortcut where shapes allow."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        hidden = spec.in_channels * spec.expansion
        self.expand = SameConv2d(spec.in_channels, hidden, 1) if spec.expansion > 1 else None
        self.dw = SameConv2d(hidden, hidden, spec.kernel, spec.stride, groups=hidden)
        self.project = SameConv2d(hidden, spec.out_channels, 1)
        self.shortcut = spec.stride == 1 and spec.in_channels == spec.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        hidden = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.dw(hidden), inplace=True))
        return x + out if self.shortcut else out


class EfficientNetLiteStem(nn.Module):
    """CLIP-normalised pixels (B, 3, H, W) to patch embeddings (B, width, H / 16, W / 16).

    The last map of stride 16 is joined with the last of stride 32, upsampled; each channel is
    shifted and scaled by fixed figures and a 1x1 convolution maps them to ``width``.
    """

    patch_size = 16
    in_scale: Tensor
    in_shift: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        specs = _block_specs(_LITE2_STAGES)
        self.first = SameConv2d(3, _FIRST_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(spec) for spec in specs)
        self._last_stride_16 = max(i for i, spec in enumerate(specs) if spec.stride == 2) - 1
        channels = specs[self._last_stride_16].out_channels + specs[-1].out_channels
        self.norm = nn.Parameter(torch.stack([torch.ones(channels), torch.zeros(channels)]))
        self.weight = nn.Parameter(torch.zeros(width, channels, 1, 1))
        # The trunk was trained on (255 photo - 127) / 128 and is handed (photo - mean) / std.
        mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
        self.register_buffer("in_scale", (std * 255 / 128).view(3, 1, 1), persistent=False)
        self.register_buffer("in_shift", ((mean * 255 - 127) / 128).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, width, H / 16, W / 16)."""
        x = pixels * self.in_scale + self.in_shift
        x = F.relu6(self.first(x), inplace=True)
        for block in self.blocks[: self._last_stride_16 + 1]:
            x = block(x)
        fine = x
        for block in self.blocks[self._last_stride_16 + 1 :]:
            x = block(x)
        coarse = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        scale, shift = self.norm[:, :, None, None]
        return F.conv2d(torch.cat([fine, coarse], dim=1) * scale + shift, self.weight)
