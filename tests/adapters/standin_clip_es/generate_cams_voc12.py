import os

import clip
import numpy as np
import torch
import torch.nn.functional as F
from clip_text import BACKGROUND_CATEGORY, class_names, new_class_names  # noqa: F401
from PIL import Image
from pytorch_grad_cam import GradCAM  # noqa: F401
from tqdm import tqdm
from utils import read_annotation


def reshape_transform(tensor, height, width):
    return tensor[1:].permute(1, 2, 0).reshape(tensor.shape[1], -1, height, width)


def split_dataset(dataset, n_splits):
    part = len(dataset) // n_splits
    starts = [i * part for i in range(n_splits)]
    return [dataset[a:b] for a, b in zip(starts, [*starts[1:], len(dataset)], strict=True)]


def zeroshot_classifier(classnames, templates, model):
    with torch.no_grad():
        texts = [templates[0].format(name) for name in classnames]
        return F.normalize(model.encode_text(clip.tokenize(texts).to(device)), dim=1)  # noqa: F821


def pixels_of(path, height, width):
    photo = Image.open(path).convert("RGB")
    size = (-(-width // 16) * 16, -(-height // 16) * 16)
    pixels = torch.from_numpy(np.array(photo.resize(size, Image.BICUBIC))).permute(2, 0, 1) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return ((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


def save_cams(args, im, keys, size, image, model, prototypes, cam):
    h, w = image.shape[-2:]
    tokens, _ = model.encode_image(image, h, w)
    maps = []
    for k in range(len(keys)):
        gray, _, _ = cam([tokens, prototypes, h, w], [lambda output, k=k: output[k]])
        maps.append(F.interpolate(torch.tensor(gray)[None], size=size, mode="bilinear")[0, 0])
    cams = torch.stack(maps).numpy().astype(np.float16)
    file = os.path.join(args.cam_out_dir, im.replace("jpg", "npy"))
    np.save(file, {"keys": np.array(keys), "attn_highres": cams})


def perform(process_id, dataset_list, args, model, bg_text_features, fg_text_features, cam):
    device_id = f"cuda:{process_id % torch.cuda.device_count()}"
    model = model.to(device_id)
    for im in tqdm(dataset_list[process_id]):
        path = os.path.join(args.img_root, im)
        annotation = path.replace("/JPEGImages", "/Annotations").replace(".jpg", ".xml")
        height, width, names = read_annotation(annotation)
        keys = [class_names.index(name) for name in dict.fromkeys(names)]
        if not keys:
            return
        prototypes = torch.cat([fg_text_features[keys], bg_text_features]).to(device_id)
        image = pixels_of(path, height, width).to(device_id)
        save_cams(args, im, keys, (height, width), image, model, prototypes, cam)


if __name__ == "__main__":
    raise SystemExit("the retrofit must not run this")
