import zlib

import torch

# As in the real one: only the setuptools of its day has this.
from pkg_resources import packaging

from clip.model import CLIP

assert packaging.version


def tokenize(texts):
    tokens = torch.zeros(len(texts), 77, dtype=torch.int)
    for row, text in zip(tokens, texts, strict=True):
        words = [zlib.crc32(word.encode()) % 49000 for word in text.split()]
        ids = [49406, *words, 49407]
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def load(name, device):
    # The "weights" are a seed.
    with open(name) as file:
        torch.manual_seed(int(file.read()))
    return CLIP(16, 32, 2, 64, 16, 77, 49408, 64, 1, 1).float().eval().to(device), None
