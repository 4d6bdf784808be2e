import clip
from torch import nn

from .load_attr import attr_aggregate


class ExCEL_model(nn.Module):
    def __init__(self, weights, device):
        super().__init__()
        self.encoder = clip.load(weights, device)
        self.text_attr, _ = attr_aggregate(clip.encode_text(23).cuda())

    def forward(self, img, ex_feats=None):
        features, _, _ = clip.generate_clip_fts(img, self.encoder)
        return (features[:, 1:] @ self.text_attr)[..., :20]
