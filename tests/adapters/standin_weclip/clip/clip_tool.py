import json
from pathlib import Path


def perform_single_voc_cam(
    img_path, image, image_features, bg_text_features, fg_text_features, cam, mode="train"
):
    # Image labels lie where the masks do, as WeCLIP has it.
    path = Path(img_path)
    keys = json.loads((path.parent / "labels.json").read_text())[path.stem]
    shown = cam.cat([fg_text_features[keys], bg_text_features])
    probabilities, _ = cam.model.forward_last_layer(image_features, shown)
    height, width = (side // 16 for side in image.shape[-2:])
    maps = probabilities[:, : len(keys)].T.reshape(-1, height, width)
    return list(maps), keys, width, height
