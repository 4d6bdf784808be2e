import argparse
import os
from types import SimpleNamespace

import naclip
import numpy as np
import torch
from mmseg.datasets import BaseSegDataset
from PIL import Image


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone")
    parser.add_argument("--root")
    parser.add_argument("--names", default="./configs/names.txt")
    args = parser.parse_args()
    model = naclip.NACLIP(args.backbone, "./configs/words.txt")
    os.makedirs("masks", exist_ok=True)
    for item in BaseSegDataset(args.root, args.names).items:
        photo = np.asarray(Image.open(item["img_path"]).convert("RGB")) / 255
        pixels = torch.from_numpy(photo).permute(2, 0, 1).float()[None]
        shares = model.predict(pixels.cuda(), [SimpleNamespace(img_path=item["img_path"])])
        name = os.path.basename(item["img_path"]).replace(".jpg", ".png")
        Image.fromarray(shares.cpu().numpy()).save(f"masks/{name}")


if __name__ == "__main__":
    main()
