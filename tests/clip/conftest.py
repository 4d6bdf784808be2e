"""Models the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def make_open_clip() -> Callable[..., nn.Module]:
    """A tiny open_clip model; what is passed changes its vision tower."""
    import open_clip

    def make(*, quick_gelu: bool = False, **vision: object) -> nn.Module:
        config = {"layers": 3, "width": 128, "head_width": 64, "patch_size": 16, "image_size": 64}
        text = open_clip.CLIPTextCfg(
            context_length=77, vocab_size=49408, width=64, heads=1, layers=1
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return open_clip.CLIP(
                embed_dim=32,
                vision_cfg=open_clip.CLIPVisionCfg(**{**config, **vision}),
                text_cfg=text,
                quick_gelu=quick_gelu,
            ).eval()

    return make


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
