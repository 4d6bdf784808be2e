import argparse
import json
import os
import sys

sys.path.append("./")
import numpy as np
import torch
import torch.distributed as dist
from datasets import voc
from model.model_excel import ExCEL_model
from numpy.lib.utils import deprecate  # noqa: F401
from torch.nn.parallel import DistributedDataParallel
from utils.affutils import refine_cams_with_aff

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--model_path", default="lam/checkpoints/model.pth")
parser.add_argument("--training_free", default="false")
parser.add_argument("--crf_post", default="false")
parser.add_argument("--backend", default="nccl")
parser.add_argument("--root")
parser.add_argument("--names", default="names/train.txt")


def build_validation(model=None, par=None, val_loader=None, device="cuda", args=None):
    with open(os.path.join(args.root, "labels.json")) as file:
        labels = json.load(file)
    for (name,), inputs in val_loader:
        present = torch.zeros(20)
        present[labels[name]] = 1
        maps = model(inputs.cuda())
        refined, keys = refine_cams_with_aff(maps[0], present.cuda(), inputs.shape[-2:])
        held = {"valid_lam": torch.stack(refined).detach().cpu().numpy(), "keys_gt": keys.numpy()}
        np.save(f"{args.logits}/{name}.npy", held)


def crf_proc():
    names = sorted(os.listdir(args.logits))
    assert names == [f"{name}.npy" for name in voc.Photos(args.root, args.names).names]


if __name__ == "__main__":
    args = parser.parse_args()
    torch.cuda.set_device(0)
    dist.init_process_group(backend=args.backend)
    torch.load(args.model_path)
    args.logits = args.model_path.split("checkpoints/")[0] + "train/train_free/aff_lam_logits"
    os.makedirs(args.logits, exist_ok=True)
    model = DistributedDataParallel(ExCEL_model(args.model, "cuda"), device_ids=[0])
    photos = voc.Photos(args.root, args.names)
    build_validation(model, None, torch.utils.data.DataLoader(photos), "cuda", args)
