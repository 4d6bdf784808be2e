import torch
from torch import nn
from torch.nn.functional import unfold


class CLIP(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.visual = nn.Linear(3 * 16 * 16, 16, bias=False)
        self.visual.patch_size = 16

    def encode_image(self, image, return_all=False):
        patches = unfold(image, 16, stride=16).permute(0, 2, 1)
        return self.visual(torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1))
