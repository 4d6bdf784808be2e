"""Vision prototypes in an unmodified checkout of upstream CLIP-ES."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR
from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS
from vpl_plugin.adapters.retrofit.retrofit import retrofit as run_recipe
from vpl_plugin.checks import check_choice

__all__ = ["RECIPE_OF", "Retrofit", "retrofit"]

RECIPE_OF = {"voc12": "clip_es", "coco14": "clip_es_coco"}


class Retrofit(NamedTuple):
    """What a retrofit left on disk.

    Attributes:
        cam_out_dir: upstream's .npy files, one per photo.
        prototypes: file of the vision prototypes.
        photos: how many photos there are.
        made_by: what the file says of how they were made: loss, gap, settings.
    """

    cam_out_dir: Path
    prototypes: Path
    photos: int
    made_by: dict[str, Any]


def retrofit(
    checkout: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    img_root: str | os.PathLike[str],
    cam_out_dir: str | os.PathLike[str],
    split_file: str | os.PathLike[str] | None = None,
    dataset: str = "voc12",
    num_workers: int = 1,
    tau_I: float = 0.03,
    anchor: float = DEFAULT_ANCHOR,
    threshold: float = 0.4,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    prototypes: str | os.PathLike[str] | None = None,
    traceback: bool = False,
) -> Retrofit:
    """Runs CLIP-ES's own code with vision prototypes in the place of its two text-feature tensors.

    :func:`vpl_plugin.adapters.retrofit.retrofit` with CLIP-ES's flags as arguments. Upstream's
    ``perform`` runs twice over the photos of the split: with its text features, whose CAMs become
    the seeds that prototypes are learned from with upstream's own encoder; and with the prototypes,
    for the CAMs that stay, its softmax at 1 / tau_I.

    Args:
        checkout: folder of CLIP-ES, as cloned.
        model: as upstream's flag: OpenAI's ViT-B-16.pt; or "mini" for the embedded model.
        img_root: as upstream's flag; for VOC a JPEGImages folder with Annotations beside it.
        cam_out_dir: as upstream's flag: where the .npy files go. Its ``eval_cam.py`` wants "voc" or
            "coco" in this path. The prototypes go into its sub-folder ``vpl``.
        split_file: as upstream's flag; None is upstream's own train split.
        dataset: "voc12" or "coco14", which of upstream's two scripts.
        num_workers: as upstream's flag, processes.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to learn from in each photo; None takes them all.
        seed: of the draw.
        prototypes: a .safetensors of an earlier run, such as on the train split; "text" for
            upstream's own; by default they are learned.
        traceback: where upstream's code fails, its process prints where.

    Returns:
        Where things are, and what made the prototypes.

    Raises:
        FileNotFoundError: the checkout, the model, the split file or photos are missing.
        ValueError: not a CLIP-ES checkout, or of an unknown shape; bad settings; a ``cam_out_dir``
            that holds other results.
        ImportError: a package that the checkout's code imports is not installed.
        UpstreamError: upstream's code failed; the message names the photo where it can.

    Example:
        >>> retrofit("CLIP-ES", model="ViT-B-16.pt", img_root="VOC2012/JPEGImages",
        ...          cam_out_dir="out/voc_vpl")  # doctest: +SKIP
    """
    check_choice("dataset", dataset, SCRIPTS)
    given = {
        "model": model,
        "img_root": img_root,
        "split_file": split_file,
        "num_workers": num_workers,
    }
    return Retrofit(
        *run_recipe(
            RECIPE_OF[dataset],
            checkout,
            cam_out_dir,
            [f"--{name}={value}" for name, value in given.items() if value is not None],
            tau_I=tau_I,
            anchor=anchor,
            threshold=threshold,
            pixels_per_photo=pixels_per_photo,
            seed=seed,
            prototypes=prototypes,
            traceback=traceback,
        )
    )
