import torch
from clip.model import CLIP
from torch import nn
from torch.nn.functional import normalize


class NACLIP(nn.Module):
    def __init__(self, weights, words):
        super().__init__()
        # The "weights" are a seed.
        with open(weights) as file:
            self.net = CLIP(int(file.read())).cuda()
        query, classes = get_cls_idx(words)
        noise = torch.Generator().manual_seed(len(query))
        self.query_features = normalize(torch.randn(len(query), 16, generator=noise), dim=1).cuda()
        self.query_idx = torch.tensor(classes).cuda()
        self.logit_scale = 40

    def predict(self, inputs, data_samples):
        features = self.net.encode_image(inputs, return_all=True)[:, 1:]
        logits = normalize(features, dim=-1) @ self.query_features.T
        return self.postprocess_result(logits, data_samples)

    def postprocess_result(self, seg_logits, data_samples):
        probabilities = (seg_logits[0] * self.logit_scale).softmax(dim=-1)
        return (255 * probabilities).byte()


def get_cls_idx(path):
    with open(path) as file:
        words = [line.strip().split(", ") for line in file]
    numbers = [number for number, line in enumerate(words) for _ in line]
    return [word for line in words for word in line], numbers
