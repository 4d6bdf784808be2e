"""RSC against cross-entropy alone where pseudo-masks are wrong about the class.

    python benchmarks/noisy_masks.py TABLE3 --dataset voc --root VOC2012 --labels masks \\
        --train train.txt --val val.txt --shares 0.1 0.2 0.4 --masks text=OTHER/train/text/masks \\
        --seeds 0 1 2 --lambda-rsc 0.1 --output noisy [settings of the training, as of vpl train]

TABLE3 is the folder of a run of ``vpl table3`` on the same photos: its vision prototypes, the
pseudo-masks and the cached tokens of its train split are used. For each of ``--shares``, so large a
share of the train photos has one class named, all over its pseudo-mask, as a class that co-occurs
with it: drawn by how many train photos show both, the same photos for a share whatever the seed of
the decoder, and those of a smaller share among those of a larger. The image-level labels stay true.
``--masks NAME=FOLDER`` adds pseudo-masks as they are, such as those of text prototypes, which
``vpl table3 --supervision text/masks`` makes.

For each, decoders with and without RSC are trained and score the val photos, at their own size,
without image-level labels. Prints mIoU and the paired difference with its 95 % interval over the
photos, the means over the seeds. What is done already is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.cli.data_options import add_data_arguments, split_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.localization import mean_iou, paired_difference, read_mask, write_mask
from vpl_plugin.localization.bootstrap import percent, points
from vpl_plugin.localization.mask_scores import score_masks
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.examples import list_examples
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.predictions import Target, Wanted, write_predictions
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import train_decoder

OF_RSC = (
    *("lambda_rsc", "tau", "activation", "detach_masks"),
    *("centred", "least_area", "rsc_labels"),
)


def misname(
    photos: Sequence[SetPhoto], classes: int, share: float, source: Path, target: Path
) -> int:
    """Writes pseudo-masks of which a share has one class misnamed; how many that are."""
    together = np.zeros((classes, classes))
    for item in photos:
        for first in item.classes:
            together[first, [other for other in item.classes if other != first]] += 1
    rng = np.random.default_rng(0)
    order = rng.permutation(len(photos)).tolist()
    draws = rng.random((len(photos), 2)).tolist()
    left = round(share * len(photos))
    target.mkdir(parents=True, exist_ok=True)
    for index in order:
        name = f"{photos[index].name}.png"
        mask = read_mask(source / name)
        there = [n for n in photos[index].classes if together[n].any() and (mask == 1 + n).any()]
        if left and there:
            left -= 1
            which, other = draws[index]
            wrong = there[int(which * len(there))]
            odds = together[wrong].cumsum() / together[wrong].sum()
            mask = np.where(mask == 1 + wrong, 1 + int((odds > other).argmax()), mask)
        write_mask(target / name, mask.astype(np.uint8))
    return round(share * len(photos)) - left


def val_counts(segmenter: Segmenter, photos: Sequence[SetPhoto], folder: Path) -> Tensor:
    """(photos, 3, C) of ``iou_counts``, without image-level labels."""
    failures: dict[Path, str] = {}
    path = {item.photo: folder / f"{item.name}.png" for item in photos}
    wanted = [Wanted(item.photo, (Target(path[item.photo]),)) for item in photos]
    write_predictions(segmenter, wanted, InferenceSettings(), failures, about=f"segment {folder}")
    counts: dict[Path, Tensor] = {}
    pairs = [(path[item.photo], item.mask) for item in photos if item.mask]
    score_masks(pairs, segmenter.classes, failures, counts=counts)
    if failures:
        raise SystemExit("\n".join(f"{photo}: {why}" for photo, why in failures.items()))
    return torch.stack(list(counts.values()))


def main() -> None:
    argv = sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table3", type=Path)
    add_data_arguments(parser, argv, splits=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1, 0.2, 0.4])
    parser.add_argument("--masks", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("noisy_masks"))
    add_model_arguments(parser)
    add_options(parser, TrainingSettings, leave_out=("seed",))
    arguments = parser.parse_args(argv)
    train, val = (
        split_photos(arguments, split, None) for split in (arguments.train, arguments.val)
    )
    labels = train.names.labels
    model = load_model(arguments)
    prototypes = Prototypes.load(arguments.table3 / "train/prototypes/prototypes.safetensors")
    beds = {name: Path(folder) for name, _, folder in (s.partition("=") for s in arguments.masks)}
    for share in arguments.shares:
        name = f"{100 * share:g} % misnamed"
        beds[name] = arguments.output / "masks" / f"{share:g}"
        source = arguments.table3 / "train/vision/masks"
        done = misname(train.photos, len(labels), share, source, beds[name])
        print(f"{name}: {done} of {len(train.photos)} train photos", flush=True)
    with_rsc = settings_of(arguments, TrainingSettings)
    if not with_rsc.lambda_rsc:
        raise SystemExit("--lambda-rsc must be above 0: it is the weight of RSC where there is RSC")
    # So that the decoders without RSC serve runs with any options of it.
    defaults = {name: getattr(TrainingSettings, name) for name in OF_RSC}
    kinds = {
        "ce": replace(with_rsc, **{**defaults, "lambda_rsc": 0.0}),
        "_".join(["rsc", *(f"{getattr(with_rsc, name)}" for name in OF_RSC)]): with_rsc,
    }
    print("\n| masks | CE | CE + RSC | difference |\n|---|---|---|---|", flush=True)
    for name, masks in beds.items():
        examples = list_examples(
            {item.name: item.photo for item in train.photos},
            masks,
            len(labels),
            classes={item.name: item.classes for item in train.photos},
        )
        sides = []
        for kind, settings in kinds.items():
            runs = []
            for seed in arguments.seeds:
                folder = arguments.output / name.replace(" ", "_") / f"{kind}_seed{seed}"
                segmenter = train_decoder(
                    model,
                    examples,
                    prototypes,
                    replace(settings, seed=seed),
                    folder,
                    cache=arguments.table3 / "cache",
                )
                runs.append(val_counts(segmenter, val.photos, folder / "val"))
            sides.append(torch.stack(runs))
        ce, rsc = (percent(float(mean_iou(side.sum(dim=1)).mean())) for side in sides)
        gain = points(paired_difference(sides[1], sides[0]))
        print(f"| {name} | {ce} | {rsc} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
