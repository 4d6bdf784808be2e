import torch
from torch import nn
from torch.nn.functional import normalize, unfold

__all__ = ["encode_text", "generate_clip_fts", "load"]


def load(weights, device):
    # The "weights" are a seed.
    with open(weights) as file:
        torch.manual_seed(int(file.read()))
    return nn.Linear(3 * 16 * 16, 16, bias=False).to(device)


def encode_text(count):
    return normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(count)), dim=1)


def generate_clip_fts(inputs, model, return_weights=True, ex_feats=None):
    patches = unfold(inputs, 16, stride=16).permute(0, 2, 1)
    tokens = model(torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1))
    return tokens / tokens.norm(dim=1, keepdim=True), None, None
