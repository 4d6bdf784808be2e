from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import normalize


class Block(nn.Module):
    def forward(self, tokens):
        return tokens.tanh(), None


class CLIP(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Linear(3 * 16 * 16, 24, bias=False)
        self.visual = nn.Module()
        self.visual.transformer = SimpleNamespace(resblocks=nn.ModuleList([Block()]))
        self.visual.ln_post = nn.LayerNorm(24)
        self.visual.proj = nn.Parameter(torch.randn(24, 16))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    def encode_text(self, words):
        noise = torch.Generator().manual_seed(len(words))
        return normalize(torch.randn(len(words), 16, generator=noise), dim=1)

    def encode_image(self, image):
        patches = nn.functional.unfold(image, 16, stride=16)[0].T
        return self.embedding(torch.cat([patches.mean(dim=0, keepdim=True), patches]))[:, None]

    def forward_last_layer(self, image_features, text_features):
        tokens, attention = self.visual.transformer.resblocks[-1](image_features)
        patches = self.visual.ln_post(tokens.permute(1, 0, 2))[0, 1:] @ self.visual.proj
        cosines = normalize(patches, dim=1) @ text_features.T
        return (self.logit_scale.exp() * cosines).softmax(dim=-1), attention
