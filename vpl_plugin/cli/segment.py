"""``vpl segment``: a trained decoder on the user's own photos."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.adapters.photos.photo_files import (
    SUFFIXES,
    list_photos,
    skipped_files,
    truth_of,
)
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.cli.inference_options import add_inference_arguments, inference_settings
from vpl_plugin.cli.mask_scores import score_masks
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.photo_list import listed_photos
from vpl_plugin.cli.predictions import Target, Wanted, write_predictions
from vpl_plugin.clip import ClassNames, ClipModel, open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.localization import read_mask
from vpl_plugin.localization.ground_truth import check_shows_classes
from vpl_plugin.plots.overlay import save_overlay
from vpl_plugin.results import Results, made_from
from vpl_plugin.segmentation.checkpoints import load_segmenter, read_checkpoint_metadata

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

SCORES = "scores.json"


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl segment``."""
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of photos")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="decoder.safetensors of vpl train"
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_segment"), help="folder to write")
    add_model_arguments(parser, default=None, default_is="the one the decoder was trained on")
    parser.add_argument(
        "--list",
        type=Path,
        help="file with a name, or a path below the folder, per line: only these",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the header photo,labels: only its photos of the folder, and of each only"
        " the classes named",
    )
    add_inference_arguments(parser)
    parser.add_argument("--crf", action="store_true", help="sharpen with a dense CRF")
    parser.add_argument("--overlays", action="store_true", help="write pictures to look at too")
    parser.add_argument("--masks", type=Path, help="folder of ground-truth PNGs: report the mIoU")
    parser.add_argument(
        "--workers", type=int, help="processes for the CRF (default: the CPU's cores)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes label maps, resumes, scores. Returns the exit code: 1 where a photo failed."""
    about = read_checkpoint_metadata(arguments.checkpoint)
    classes = tuple(about["classes"])
    settings = inference_settings(arguments)
    photos = _photos(arguments.photos, arguments.list, arguments.output)
    failures: dict[Path, str] = {}
    allowed: dict[Path, tuple[int, ...]] = {}
    if arguments.labels is not None:
        allowed = _allowed(arguments.photos, arguments.labels, classes, failures)
        photos = {relative: path for relative, path in photos.items() if path in allowed}
        if not photos:
            raise InputError(f"not one photo of {arguments.labels} is among those to segment")
    truths = {}
    if arguments.masks is not None:
        if not arguments.masks.is_dir():
            raise FileNotFoundError(f"{arguments.masks} is no folder of ground truth")
        truths = _truths(photos, arguments.masks, failures)
        check_shows_classes(truths.values(), len(classes))
    output: Path = arguments.output
    Results.claim(
        output,
        {
            "checkpoint": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest(),
            **settings.views(),
            "crf": arguments.crf,
            "quick_gelu": arguments.quick_gelu,
        },
    )
    wanted = [
        Wanted(path, (Target(_mask(output, relative), arguments.crf, allowed.get(path)),))
        for relative, path in photos.items()
    ]
    done = sum(item.targets[0].is_made(item.photo) for item in wanted)
    logger.info("%d photos, %d of them done before", len(photos), done)
    try:
        if done < len(wanted):
            model = load_model(arguments, default=about["encoder"]["name"])
            _check_encoder(about, model)
            segmenter = load_segmenter(arguments.checkpoint, model)
            workers = arguments.workers if arguments.workers is not None else os.cpu_count() or 1
            write_predictions(segmenter, wanted, settings, failures, workers=workers)
        segmented = {
            relative: item.photo
            for relative, item in zip(photos, wanted, strict=True)
            if item.targets[0].is_made(item.photo)
        }
        if arguments.overlays:
            _write_overlays(output, segmented, classes, failures)
        if arguments.masks is not None:
            scored = {name: truths[name] for name in segmented if name in truths}
            _score(output, scored, classes, failures)
    finally:
        for path, why in failures.items():
            logger.error("failed: %s: %s", path, why)
    logger.info("%d of %d photos are in %s", len(segmented), len(photos), output.resolve())
    return 1 if failures else 0


def _check_encoder(about: dict[str, Any], model: ClipModel) -> None:
    """A name alone would let an encoder of other weights through, or of another activation."""
    noted, own = about["made_by"].get("encoder", {}), model.fingerprint()
    if noted.get("weights", own["weights"]) != own["weights"]:
        raise InputError(
            f"the decoder was trained on other weights than these of {model.name!r}: say which"
            " with --model and --pretrained"
        )
    if noted.get("activation", own["activation"]) != own["activation"]:
        raise InputError(
            f"the decoder was trained with {noted['activation']} in the encoder; this one of"
            f" {model.name!r} has {own['activation']}: say which with --quick-gelu or"
            " --no-quick-gelu"
        )


def _mask(output: Path, relative: Path) -> Path:
    # The suffix stays in the name, so that a.jpg and a.png keep apart.
    return output / "masks" / f"{relative}.png"


def _photos(given: Sequence[Path], listed: Path | None, output: Path) -> dict[Path, Path]:
    """The photos by the name that their outputs get: the path below the folder given."""
    written = [(output / name).resolve() for name in ("masks", "overlays")]
    found: dict[Path, Path] = {}
    for path in given:
        if path.is_dir():
            inside = list_photos(path)
            # The folder may hold the label maps of an earlier run too.
            named = {
                photo: path / photo
                for photo in inside.photos
                if not any(map((path / photo).resolve().is_relative_to, written))
            }
            if inside.skipped:
                logger.info("%s: skipped %s", path, skipped_files(inside.skipped))
        elif path.is_file():
            named = {Path(path.name): path}
        else:
            raise FileNotFoundError(f"there is no photo or folder {path}")
        twice = [name for name in named if name in found and found[name] != named[name]]
        if twice:
            raise InputError(
                f"{found[twice[0]]} and {named[twice[0]]} would get the same name: segment them"
                " with different --output"
            )
        found.update(named)
    if not found:
        shown = ", ".join(str(path) for path in given)
        raise InputError(f"there is no photo in {shown}; known are {', '.join(sorted(SUFFIXES))}")
    if listed is not None:
        names = listed_photos(listed, list(found), [path.resolve().name for path in given])
        found = {name: found[name] for name in names}
    return found


def _allowed(
    given: Sequence[Path], labels: Path, classes: tuple[str, ...], failures: dict[Path, str]
) -> dict[Path, tuple[int, ...]]:
    """The classes of each photo that the CSV file names."""
    if len(given) != 1 or not given[0].is_dir():
        raise InputError("--labels takes one folder of photos, which its paths lie in")
    listed = folder_photos(given[0], ClassNames("the decoder", classes, classes, ()), labels)
    if not listed.photos:
        raise InputError(f"{labels} has no photo whose labels are known: {listed.why_empty()}")
    failures.update(listed.failures)
    return {item.photo: item.classes for item in listed.photos}


def _write_overlays(
    output: Path, photos: dict[Path, Path], classes: Sequence[str], failures: dict[Path, str]
) -> None:
    overlays = Results(output / "overlays")
    for relative, path in tqdm(photos.items(), desc="overlays", unit="photo"):
        mask = _mask(output, relative)
        inputs = made_from(mask) or ""
        if overlays.is_made(str(relative), inputs, ".png"):
            continue
        picture = overlays.new_file(str(relative), ".png")
        try:
            save_overlay(picture, open_photo(path), read_mask(mask), classes, made_from=inputs)
        # The photo may have been removed or changed since it was segmented.
        except (InputError, FileNotFoundError) as error:
            failures.setdefault(path, f"no overlay: {error}")


def _truths(photos: dict[Path, Path], masks: Path, failures: dict[Path, str]) -> dict[Path, Path]:
    """The ground truth of each photo, by its name."""
    stems = Counter(name.with_suffix("") for name in photos)
    truths = {}
    for name, path in photos.items():
        try:
            truths[name] = truth_of(masks, name, shared=stems[name.with_suffix("")] > 1)
        except InputError as error:
            failures[path] = f"not scored: {error}"
    return truths


def _score(
    output: Path, truths: dict[Path, Path], classes: Sequence[str], failures: dict[Path, str]
) -> None:
    pairs = ((_mask(output, name), truth) for name, truth in truths.items())
    scores: dict[str, Any] | None = score_masks(
        tqdm(pairs, desc="score", unit="photo", total=len(truths)), classes, failures
    )
    if scores is None:
        logger.error("not one photo has a ground truth that fits")
        return
    with whole_file(output / SCORES) as part:
        part.write_text(json.dumps(scores, indent=2) + "\n")
    print(
        f"mIoU {100 * scores['miou']:.1f}, pixel accuracy {100 * scores['pixel_accuracy']:.1f}"
        f" ({scores['photos']} photos; IoU of each class in {output / SCORES})"
    )
