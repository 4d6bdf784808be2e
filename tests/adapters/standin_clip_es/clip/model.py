from collections import OrderedDict

import torch
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads, mask):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.mask = mask

    def forward(self, x):
        y = self.ln_1(x)
        y, weights = self.attn(y, y, y, attn_mask=self.mask)
        x = x + y
        return x + self.mlp(self.ln_2(x)), weights


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, mask=None):
        super().__init__()
        self.layers = layers
        self.resblocks = nn.Sequential(*(Block(width, heads, mask) for _ in range(layers)))


class Visual(nn.Module):
    def __init__(self, side, patch, width, layers, heads, embed_dim):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed_dim))


class CLIP(nn.Module):
    def __init__(
        self,
        embed_dim,
        image_resolution,
        vision_layers,
        vision_width,
        vision_patch_size,
        context_length,
        vocab_size,
        transformer_width,
        transformer_heads,
        transformer_layers,
    ):
        super().__init__()
        heads = vision_width // 64
        self.visual = Visual(
            image_resolution, vision_patch_size, vision_width, vision_layers, heads, embed_dim
        )
        mask = torch.full((context_length, context_length), -torch.inf).triu(1)
        self.transformer = Transformer(
            transformer_width, transformer_layers, transformer_heads, mask
        )
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.randn(context_length, transformer_width))
        self.ln_final = nn.LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.randn(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    @torch.no_grad()
    def encode_image(self, image, H, W):
        visual = self.visual
        x = visual.conv1(image).flatten(2).permute(2, 0, 1)
        grid = visual.positional_embedding[1:]
        side = round(len(grid) ** 0.5)
        grid = grid.T.reshape(1, -1, side, side)
        grid = nn.functional.interpolate(grid, (H // 16, W // 16), mode="bilinear")
        x = torch.cat([visual.class_embedding.expand(1, len(image), -1), x])
        positions = torch.cat([visual.positional_embedding[:1], grid.flatten(2)[0].T])
        x = visual.ln_pre(x + positions[:, None])
        maps = []
        for block in list(visual.transformer.resblocks)[:-1]:
            x, weights = block(x)
            maps.append(weights)
        return x, maps

    def encode_text(self, text):
        x = (self.token_embedding(text) + self.positional_embedding).transpose(0, 1)
        for block in self.transformer.resblocks:
            x, _ = block(x)
        x = self.ln_final(x.transpose(0, 1))
        return x[torch.arange(len(x)), text.argmax(dim=1)] @ self.text_projection

    def forward_last_layer(self, image_features, text_features):
        x, weights = self.visual.transformer.resblocks[-1](image_features)
        x = self.visual.ln_post(x.transpose(0, 1))[:, 1:].mean(dim=1) @ self.visual.proj
        cosine = (x / x.norm(dim=1)) @ (text_features / text_features.norm(dim=1)[:, None]).T
        return (self.logit_scale.exp() * cosine).softmax(dim=-1), weights
