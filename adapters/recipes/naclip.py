"""NACLIP (Hajimiri et al., WACV 2025, repository sinahmr/NACLIP): open-vocabulary segmentation.

It learns nothing and takes no image labels: each pixel goes to the words nearest to its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.places import Attributes, Returned, Scale
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe, SeenPhoto

__all__ = ["NACLIP"]


@RECIPES.register("naclip")
class NACLIP(Recipe):
    """NACLIP's label maps, where the config's evaluator has ``output_dir="masks"``."""

    title = "NACLIP, eval.py"
    commit = "0cac3a6"
    script = "eval.py"
    shape = {
        "eval.py": {"main": ()},
        "naclip.py": {
            "NACLIP.predict": ("self", "inputs", "data_samples"),
            "NACLIP.postprocess_result": ("self", "seg_logits", "data_samples"),
            "get_cls_idx": ("path",),
        },
        "clip/model.py": {"CLIP.encode_image": ("self", "image", "return_all")},
    }
    # Compiled operators, which other models of mmsegmentation want.
    unused = ("mmcv._ext",)
    text = Attributes("naclip:NACLIP", ("query_features", "query_idx"))
    scale = Scale("naclip:NACLIP.postprocess_result")
    photos = Returned("mmseg.datasets:BaseSegDataset.load_data_list")
    watched = {
        "words": "naclip:get_cls_idx",
        "features": "clip.model:CLIP.encode_image",
        "maps": "naclip:NACLIP.predict",
    }
    outputs = ("masks/{photo}.png",)

    def rows(self, *found: Tensor) -> tuple[Tensor, Tensor]:
        """The words of class 0, which come first, are the background's."""
        features, classes = found
        background = int((classes == 0).sum())
        return features[background:], features[:background]

    def class_names(self, calls: Mapping[str, Call]) -> tuple[str, ...]:
        """A class may have several words, each with a row of its own."""
        words, classes = calls["words"].result
        return tuple(word for word, number in zip(words, classes, strict=True) if number > 0)

    def photo(self, item: Any) -> str:
        """From mmsegmentation's item of a photo."""
        return Path(item["img_path"]).stem

    def seen(self, calls: Mapping[str, Call]) -> str:
        """From mmsegmentation's sample, of which there is one at a time."""
        return Path(calls["maps"].arguments["data_samples"][0].img_path).stem

    def see(self, calls: Mapping[str, Call]) -> SeenPhoto:
        """Its own label of each pixel: 1 for the nearest word, 0 for the others."""
        model = calls["maps"].arguments["self"]
        features = F.normalize(calls["features"].result[0, 1:].float(), dim=1)
        nearest = (features @ model.query_features.float().T).argmax(dim=1)
        background = int((model.query_idx == 0).sum())
        claimed = F.one_hot(nearest, len(model.query_features))[:, background:]
        patch = model.net.visual.patch_size
        height, width = (side // patch for side in calls["features"].arguments["image"].shape[-2:])
        maps = claimed.T.float().unflatten(1, (height, width))
        return SeenPhoto(features, maps, range(len(maps)))
