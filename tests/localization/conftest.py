"""A vision transformer of a few thousand weights, in the shape of the CLIP seam, any dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TinyTokens(NamedTuple):
    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]


class TinyBlock(NamedTuple):
    """The last block as GradCAM asks for it, its gradients by plain autograd."""

    activations: Tensor
    projected: Tensor
    attention: Tensor
    pooled: Tensor

    def mean_gradients(self, cotangents: Tensor) -> Tensor:
        gradients = [
            torch.autograd.grad(
                self.pooled, self.activations, direction.to(self.pooled.dtype), retain_graph=True
            )[0]
            for direction in cotangents.unbind(1)
        ]
        return torch.stack(gradients, dim=1)[:, :, 1:].mean(dim=2, dtype=cotangents.dtype)


class TinyClip(nn.Module):
    """One attention block over patches of 4 x 4 pixels; weights drawn from a seed."""

    patch_size, embed_dim, logit_scale = 4, 12, 20.0
    width, heads = 16, 2

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)

        def weight(*shape: int) -> nn.Parameter:
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(values.to(dtype) * shape[0] ** -0.5, requires_grad=False)

        self.patchify = weight(3 * self.patch_size**2, self.width)
        self.class_token = weight(1, self.width)
        self.qkv = weight(self.width, 3 * self.width)
        self.out = weight(self.width, self.width)
        self.mlp = weight(self.width, self.width)
        self.proj = weight(self.width, self.embed_dim)

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def device(self) -> torch.device:
        return self.proj.device

    def tokens_before_last_block(self, pixels: Tensor, *, attention_blocks: int = 7) -> TinyTokens:
        side = self.patch_size
        patches = F.unfold(pixels, side, stride=side).transpose(1, 2) @ self.patchify
        tokens = torch.cat([self.class_token.expand(len(pixels), 1, -1), patches], dim=1)
        similarity = patches @ patches.mT / self.width
        grid = (pixels.shape[-2] // side, pixels.shape[-1] // side)
        return TinyTokens(tokens, similarity.softmax(dim=-1)[:, None][:, :attention_blocks], grid)

    def last_block_norm(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:])

    def after_norm(self, tokens: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = (
            (activations @ self.qkv).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attention = (query @ key.mT).softmax(dim=-1)
        x = tokens + (attention @ value).transpose(1, 2).flatten(2) @ self.out
        x = x + torch.tanh(self.last_block_norm(x) @ self.mlp)
        return x, attention.mean(dim=1)[:, 1:, 1:]

    def pooled_block(self, tokens: Tensor) -> TinyBlock:
        with torch.inference_mode(False), torch.enable_grad():
            activations = self.last_block_norm(tokens).detach().requires_grad_()
            output, attention = self.after_norm(tokens, activations)
            projected = self.project(output)
            pooled = projected.mean(dim=1)
        return TinyBlock(activations, projected.detach(), attention.detach(), pooled)

    def project(self, block_output: Tensor) -> Tensor:
        return self.last_block_norm(block_output[:, 1:]) @ self.proj


@pytest.fixture(scope="session")
def tiny_clip() -> Callable[[torch.dtype], TinyClip]:
    """A maker of tiny models: the same weights in any dtype."""
    return TinyClip
