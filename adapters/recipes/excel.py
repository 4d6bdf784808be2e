"""ExCEL (Yang et al., CVPR 2025, repository zwyang6/ExCEL) on PASCAL VOC: its training-free maps.

``tools/infer_lam.py --training_free true``, as the repository's ``infer_lam.sh`` has it.
(``tools/training_free_attr.py`` unpacks four values of a model that returns five, and writes to a
folder of its authors': it runs for nobody.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.places import Returned
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe, SeenPhoto
from vpl_plugin.clip.class_names import VOC
from vpl_plugin.localization.normalization import min_max

__all__ = ["ExCEL"]


@RECIPES.register("excel")
class ExCEL(Recipe):
    """ExCEL's maps with the affinity, and their labels after the dense CRF."""

    title = "ExCEL, tools/infer_lam.py"
    commit = "2cd7f51"
    script = "tools/infer_lam.py"
    shape = {
        "tools/infer_lam.py": {
            "build_validation": ("model", "par", "val_loader", "device", "args"),
            "crf_proc": (),
        },
        "model/model_excel.py": {"ExCEL_model.forward": ("self", "img", "ex_feats")},
        "model/load_attr.py": {"attr_aggregate": None},
        "clip/clip.py": {"generate_clip_fts": ("inputs", "model", "return_weights", "ex_feats")},
        "utils/affutils.py": {"refine_cams_with_aff": None},
        "datasets/voc.py": {"load_img_name_list": ("img_name_list_path",)},
    }
    flags = (
        *("--training_free", "true", "--crf_post", "true", "--backend", "gloo"),
        # It writes beside this file, which it loads and does not use.
        *("--model_path", "{output}/lam/checkpoints/untrained.pth"),
    )
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    # Of its class prototypes, which weigh attributes by the text features, and the background's.
    text = Returned("model.model_excel:attr_aggregate", item=0)
    labels = VOC.labels
    photos = Returned("datasets.voc:load_img_name_list")
    watched = {
        "features": "clip:generate_clip_fts",
        "maps": "utils.affutils:refine_cams_with_aff",
    }
    outputs = ("lam/*/*/*_logits/{photo}.npy",)

    def rows(self, *found: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes are columns: 20 classes, then the background."""
        (columns,) = found
        return columns.T[: len(self.labels)], columns.T[len(self.labels) :]

    def see(self, calls: Mapping[str, Call]) -> SeenPhoto:
        """The maps with the affinity; it takes no softmax over classes, so no temperature."""
        maps, classes = calls["maps"].result
        features = calls["features"].result[0][0, 1:]
        return SeenPhoto(features, min_max(torch.stack(maps).float()), classes.tolist())

    def prepare(self, folder: Path) -> None:
        """Weights of the decoder, of which the training-free maps use none."""
        checkpoints = folder / "lam" / "checkpoints"
        checkpoints.mkdir(parents=True)
        torch.save({}, checkpoints / "untrained.pth")
