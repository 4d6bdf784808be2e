import os

import clip
import torch
from clip_text import BACKGROUND_CATEGORY_COCO, new_class_names_coco  # noqa: F401
from generate_cams_voc12 import pixels_of, save_cams
from PIL import Image
from pytorch_grad_cam import GradCAM  # noqa: F401
from tqdm import tqdm
from utils import read_annotation  # noqa: F401


def reshape_transform(tensor, height, width):
    return tensor[1:].permute(1, 2, 0).reshape(tensor.shape[1], -1, height, width)


def split_dataset(dataset, all_label_list, n_splits):
    part = len(dataset) // n_splits
    starts = [i * part for i in range(n_splits)]
    bounds = list(zip(starts, [*starts[1:], len(dataset)], strict=True))
    return [dataset[a:b] for a, b in bounds], [all_label_list[a:b] for a, b in bounds]


def zeroshot_classifier(classnames, templates, model):
    with torch.no_grad():
        texts = [templates[0].format(name) for name in classnames]
        features = model.encode_text(clip.tokenize(texts).to(device))  # noqa: F821
        return features / features.norm(dim=1, keepdim=True)


def perform(
    process_id,
    dataset_list,
    args,
    model,
    bg_text_features,
    fg_text_features,
    cam,
    split_label_list,
):
    device_id = torch.device(f"cuda:{process_id % torch.cuda.device_count()}")
    model = model.to(device=device_id)
    for index, im in enumerate(tqdm(dataset_list[process_id])):
        keys = [int(label) for label in split_label_list[process_id][index]]
        path = os.path.join(args.img_root, im)
        width, height = Image.open(path).size
        prototypes = torch.cat([fg_text_features[keys], bg_text_features]).to(device_id)
        image = pixels_of(path, height, width).to(device_id)
        save_cams(args, im, keys, (height, width), image, model, prototypes, cam)
