"""Text against vision prototypes on the kinds of dense features: every pixel its nearest prototype.

    python benchmarks/dense_features.py --root VOC2012 --train train.txt --val val.txt
        [--model mini] [--kinds clip maskclip sclip clearclip surgery] [--output dense_features]

No CAMs, no affinity, no CRF: a pixel is of the class whose prototype its feature is nearest to by
cosine, the background's 25 names among them; cosines are resized bilinearly to the photo. "Free"
lets all classes compete, "given" those of the photo's image-level labels and the background.

The vision prototypes of a kind are learned on that kind's features of the train photos, at the 128
pixels of each photo that the stage ``seeds`` of ``vpl-clip-es`` draws and with its seeds: those of
the refined text CAMs of CLIP as it is at Phi = 0.4, the same for every kind. A pixel with a seed is
one-hot; any other gets the text distribution over the background at this kind's feature. tau_I and
the prior are the defaults. Nothing is chosen on val.

Prints mIoU on the val photos, the background's part in it, and paired differences with their 95 %
intervals over the photos. The output holds the seeds, the prototypes, and the counts that ``vpl
compare`` reads; what is done already is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vpl_plugin import fit_vision_prototypes
from vpl_plugin.adapters.clip_es.learning import learned_prototypes
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import read_seeds
from vpl_plugin.adapters.clip_es.stages import Seeds
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip import ClipModel, class_prototypes, load_clip, open_photo
from vpl_plugin.localization import (
    confusion_matrix,
    iou_counts,
    mean_iou,
    paired_difference,
    read_mask,
    resize_cams,
    targets_from_seeds,
)
from vpl_plugin.localization.photo_counts import (
    PHOTO_COUNTS,
    read_photo_counts,
    write_photo_counts,
)
from vpl_plugin.prototypes import Prototypes

KINDS = ("clip", "maskclip", "sclip", "clearclip", "surgery")
MODES = ("free", "given")


def features_of(model: ClipModel, item: SetPhoto, kind: str) -> tuple[Tensor, tuple[int, int]]:
    """Unit features (h * w, D) of a photo, and its (h, w)."""
    pixels = model.preprocess(open_photo(item.photo))
    grid = (pixels.shape[1] // model.patch_size, pixels.shape[2] // model.patch_size)
    return model.dense_features(pixels[None], kind=kind)[0].float(), grid


def learn(
    model: ClipModel, photos: PhotoSet, settings: Settings, text: Prototypes, kind: str
) -> Prototypes:
    """Vision prototypes of a kind of features."""
    features, seeds = [], []
    for item in tqdm(photos.photos, desc=f"{kind}: train", unit="photo"):
        stored = read_seeds(settings.seeds / f"{item.name}.npz")
        found, _ = features_of(model, item, kind)
        features.append(found[torch.from_numpy(stored.pixels).long()])
        seeds.append(torch.from_numpy(stored.seeds).long())
    x, claimed = torch.cat(features), torch.cat(seeds)
    targets = targets_from_seeds(claimed, x, text)
    fit = fit_vision_prototypes(
        x, text.rows, settings.tau_I, targets=targets, anchor=settings.anchor
    )
    facts = {**settings.facts("threshold", "pixels_per_photo", "seed", "tau_I", "anchor")}
    return learned_prototypes(text, fit, settings.tau_I, {**facts, "features": kind})


def labels(cosines: Tensor, classes: Sequence[int], num_foreground: int) -> dict[str, Tensor]:
    """Label maps (H, W), 0 for background, of cosines (N, H, W): free, and with labels given."""
    background = cosines[num_foreground:].amax(dim=0)
    found = {}
    for mode, allowed in (("free", range(num_foreground)), ("given", classes)):
        indices = torch.tensor(allowed)
        score, best = cosines[indices].max(dim=0)
        found[mode] = (indices[best] + 1).masked_fill(background >= score, 0)
    return found


def score(
    model: ClipModel, photos: PhotoSet, kind: str, prototypes: dict[str, Prototypes], output: Path
) -> None:
    """Writes the counts of every photo for each of the prototypes."""
    counts: dict[tuple[str, str], list[Tensor]] = {}
    for item in tqdm(photos.photos, desc=f"{kind}: val", unit="photo"):
        features, grid = features_of(model, item, kind)
        mask = read_mask(item.mask)
        for name, own in prototypes.items():
            cosines = (F.normalize(own.rows, dim=1) @ features.T).unflatten(1, grid)
            maps = labels(resize_cams(cosines, mask.shape), item.classes, own.num_foreground)
            for mode, found in maps.items():
                confusion = confusion_matrix(found, mask, own.num_foreground + 1)
                counts.setdefault((name, mode), []).append(iou_counts(confusion))
    names = [item.name for item in photos.photos]
    for name in prototypes:
        (output / kind / name).mkdir(parents=True, exist_ok=True)
        stacked = {mode: torch.stack(counts[name, mode]) for mode in MODES}
        write_photo_counts(output / kind / name / PHOTO_COUNTS, names, stacked)


def parts(counts: Tensor) -> str:
    """IoU of the background, and the mean over the classes that the photos show."""
    right, predicted, truth = counts.sum(dim=0).double()
    iou = 100 * right / (predicted + truth - right)
    return f"{iou[0]:.1f} / {iou[1:][truth[1:] > 0].mean():.1f}"


def shown(counts: Tensor, base: Tensor) -> str:
    """A difference in points, with its interval."""
    mean, low, high = (100 * value for value in paired_difference(counts, base))
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--output", type=Path, default=Path("dense_features"))
    options = parser.parse_args()

    model = load_clip(options.model, device="cpu")
    train, val = (
        voc_photos(options.root, split, labels="masks") for split in (options.train, options.val)
    )
    settings = Settings(options.output)
    Seeds().run(Run(train, settings, model))
    text = class_prototypes(model, train.names)
    counts = {}
    for kind in options.kinds:
        file = options.output / kind / "vision.safetensors"
        files = {name: options.output / kind / name / PHOTO_COUNTS for name in ("text", "vision")}
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            learn(model, train, settings, text, kind).save(file)
        if not all(path.exists() for path in files.values()):
            both = {"text": text, "vision": Prototypes.load(file)}
            score(model, val, kind, both, options.output)
        for name, path in files.items():
            for mode, found in read_photo_counts(path).kinds.items():
                counts[kind, name, mode] = found

    for mode in MODES:
        columns = "text | vision | vision to text | text to clip | vision to clip"
        print(f"\n| {mode} | {columns} | text: background / classes | vision: the same |")
        print("|---|---|---|---|---|---|---|---|")
        for kind in options.kinds:
            own = {name: counts[kind, name, mode] for name in ("text", "vision")}
            cells = [f"{100 * float(mean_iou(each.sum(dim=0))):.1f}" for each in own.values()]
            cells.append(shown(own["vision"], own["text"]))
            for name, each in own.items():
                base = counts.get(("clip", name, mode))
                cells.append("" if base is None or kind == "clip" else shown(each, base))
            cells += map(parts, own.values())
            print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
