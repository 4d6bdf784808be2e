import argparse
import os

import numpy as np
import torch
from datasets import voc
from WeCLIP_model.model_attn_aff_voc import WeCLIP

parser = argparse.ArgumentParser()
parser.add_argument("--work_dir", default="results")
parser.add_argument("--model_path", default="weights.pth")
parser.add_argument("--root")
parser.add_argument("--names", default="names/train.txt")


def validate(model, dataset, test_scales=None):
    model.cuda(0)
    for (name,), inputs in torch.utils.data.DataLoader(dataset, num_workers=1):
        both = torch.cat([inputs, inputs.flip(-1)]).cuda()
        maps = [model(both, [name, name], mode="val")[0][0] for _ in test_scales]
        logit = os.path.join(args.work_dir, "logit", f"{name}.npy")
        np.save(logit, {"segs": torch.stack(maps).cpu().numpy()})


if __name__ == "__main__":
    args = parser.parse_args()
    args.work_dir = os.path.join(args.work_dir, "val")
    os.makedirs(os.path.join(args.work_dir, "logit"), exist_ok=True)
    validate(WeCLIP(args.model_path, args.root, "cuda"), voc.Photos(args.root, args.names), [1, 1])
    done = sorted(os.listdir(os.path.join(args.work_dir, "logit")))
    with open(os.path.join(args.work_dir, "score.txt"), "w") as file:
        file.write(" ".join(done))
