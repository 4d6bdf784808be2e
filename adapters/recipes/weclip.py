"""WeCLIP (Zhang et al., CVPR 2024, repository zbf1991/WeCLIP) on PASCAL VOC: its inference.

Its model makes CLIP-ES's CAMs inside its forward and keeps the text features as attributes. At
inference they reach the CAM labels, which train its decoder, but not what the decoder says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.places import Attributes, Returned, Scale
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe, SeenPhoto
from vpl_plugin.clip.class_names import VOC
from vpl_plugin.localization.mask_files import write_mask
from vpl_plugin.localization.normalization import min_max

__all__ = ["WeCLIP"]


@RECIPES.register("weclip")
class WeCLIP(Recipe):
    """WeCLIP's CAM labels and the segmentation of its decoder."""

    title = "WeCLIP, test_msc_flip_voc.py"
    commit = "0f47db4"
    script = "test_msc_flip_voc.py"
    shape = {
        "test_msc_flip_voc.py": {"validate": ("model", "dataset", "test_scales")},
        "WeCLIP_model/model_attn_aff_voc.py": {
            "WeCLIP.forward": ("self", "img", "img_names", "mode")
        },
        "clip/clip_tool.py": {"perform_single_voc_cam": None},
        "clip/model.py": {"CLIP.forward_last_layer": ("self", "image_features", "text_features")},
        "datasets/voc.py": {"load_img_name_list": ("img_name_list_path",)},
    }
    flags = ("--work_dir", "{output}/results")
    unused = (
        *("mmcv", "mmcv.cnn", "ttach"),
        *("pydensecrf", "pydensecrf.densecrf", "pydensecrf.utils"),
    )
    text = Attributes(
        "WeCLIP_model.model_attn_aff_voc:WeCLIP", ("fg_text_features", "bg_text_features")
    )
    labels = VOC.labels
    scale = Scale("clip.model:CLIP.forward_last_layer")
    photos = Returned("datasets.voc:load_img_name_list")
    watched = {
        "cams": "WeCLIP_model.model_attn_aff_voc:perform_single_voc_cam",
        "labels": "WeCLIP_model.model_attn_aff_voc:WeCLIP.forward",
    }
    outputs = ("results/*/logit/{photo}.npy", "results/cam_labels/{photo}.png")

    def seen(self, calls: Mapping[str, Call]) -> str:
        """Photos come in two sizes, each with its mirror image behind it; the first counts."""
        return Path(calls["cams"].arguments["img_path"]).stem

    def save(self, photo: str, calls: Mapping[str, Call], folder: Path) -> None:
        """The CAM labels, of which the script keeps the score alone."""
        labels = folder / "results" / "cam_labels"
        labels.mkdir(exist_ok=True)
        write_mask(labels / f"{photo}.png", calls["labels"].result[1][0].byte().cpu().numpy())

    def see(self, calls: Mapping[str, Call]) -> SeenPhoto:
        """The refined CAMs, and the features that their GradCAM pools: of the mirror image."""
        arguments, (maps, classes, *_) = calls["cams"]
        visual = arguments["cam"].model.visual
        tokens, _ = visual.transformer.resblocks[-1](arguments["image_features"])
        features = visual.ln_post(tokens.permute(1, 0, 2))[0, 1:] @ visual.proj
        return SeenPhoto(features, min_max(torch.stack(maps).float()), classes)
