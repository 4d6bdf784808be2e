import numpy as np
import torch
from PIL import Image


def load_img_name_list(img_name_list_path):
    return np.loadtxt(img_name_list_path, dtype=str)


class Photos(torch.utils.data.Dataset):
    def __init__(self, root, names):
        self.root, self.names = root, load_img_name_list(names)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        photo = np.asarray(Image.open(f"{self.root}/{name}.jpg").convert("RGB"))
        return str(name), torch.from_numpy(photo / 255).permute(2, 0, 1).float()
