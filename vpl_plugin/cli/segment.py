"""``vpl segment``: a trained decoder on the user's own photos."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpl_plugin.adapters.datasets import folder_photos
from vpl_plugin.adapters.datasets.folder import SUFFIXES
from vpl_plugin.adapters.datasets.split_file import read_lines
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.cli.inference_options import add_inference_arguments, inference_settings
from vpl_plugin.cli.mask_scores import score_masks
from vpl_plugin.cli.overlay import save_overlay
from vpl_plugin.cli.predictions import Target, Wanted, write_predictions
from vpl_plugin.clip import ClassNames, ClipModel, load_clip, open_photo
from vpl_plugin.localization import read_mask
from vpl_plugin.run_folder import claim_folder
from vpl_plugin.segmentation.checkpoints import load_segmenter, read_checkpoint_metadata
from vpl_plugin.segmentation.feature_cache import encoder_fingerprint

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

SCORES = "scores.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``vpl segment``."""
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of photos")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="decoder.safetensors of vpl train"
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_segment"), help="folder to write")
    parser.add_argument(
        "--model", help="as load_clip takes it (default: the one the decoder was trained on)"
    )
    parser.add_argument("--pretrained", help="open_clip's pretrained tag or a file")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda if it is there)")
    parser.add_argument("--list", type=Path, help="file with a name a line: only these photos")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the header photo,labels: only its photos of the folder, and of each only"
        " the classes named",
    )
    add_inference_arguments(parser)
    parser.add_argument("--crf", action="store_true", help="sharpen with a dense CRF")
    parser.add_argument("--overlays", action="store_true", help="write pictures to look at too")
    parser.add_argument("--masks", type=Path, help="folder of ground-truth PNGs: tell the mIoU")
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
    if arguments.masks is not None and not arguments.masks.is_dir():
        raise FileNotFoundError(f"{arguments.masks} is no folder of ground truth")
    output: Path = arguments.output
    claim_folder(
        output,
        {
            "checkpoint": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest(),
            **settings.views(),
            "crf": arguments.crf,
            "labels": str(arguments.labels) if arguments.labels else None,
        },
    )
    wanted = [
        Wanted(path, (Target(_mask(output, relative), arguments.crf, allowed.get(path)),))
        for relative, path in photos.items()
    ]
    done = sum(item.targets[0].path.exists() for item in wanted)
    logger.info("%d photos, %d of them done before", len(photos), done)
    try:
        if done < len(wanted):
            name = arguments.model or about["encoder"]["name"]
            model = load_clip(name, arguments.pretrained, device=arguments.device)
            _check_weights(about, model)
            segmenter = load_segmenter(arguments.checkpoint, model)
            workers = arguments.workers if arguments.workers is not None else os.cpu_count() or 1
            write_predictions(segmenter, wanted, settings, failures, workers=workers)
        segmented = {
            relative: path for relative, path in photos.items() if _mask(output, relative).exists()
        }
        if arguments.overlays:
            _write_overlays(output, segmented, classes)
        if arguments.masks is not None:
            _score(output, arguments.masks, segmented, classes, failures)
    finally:
        for path, why in failures.items():
            logger.error("failed: %s: %s", path, why)
    logger.info("%d of %d photos are in %s", len(segmented), len(photos), output.resolve())
    return 1 if failures else 0


def _check_weights(about: dict[str, Any], model: ClipModel) -> None:
    """A name alone would let an encoder of other weights through, or of random ones."""
    noted = about["made_by"].get("encoder", {}).get("weights")
    if noted is not None and noted != encoder_fingerprint(model)["weights"]:
        raise ValueError(
            f"the decoder was trained on other weights than these of {model.name!r}: say which"
            " with --model and --pretrained"
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
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            # The folder may hold the label maps of an earlier run too.
            named = {
                photo.relative_to(path): photo
                for photo in inside
                if not any(map(photo.resolve().is_relative_to, written))
            }
        elif path.is_file():
            named = {Path(path.name): path}
        else:
            raise FileNotFoundError(f"there is no photo or folder {path}")
        twice = [name for name in named if name in found and found[name] != named[name]]
        if twice:
            raise ValueError(
                f"{found[twice[0]]} and {named[twice[0]]} would get the same name: segment them"
                " with different --output"
            )
        found.update(named)
    if listed is not None:
        _, lines = read_lines(Path(), listed)
        by_stem = {name.with_suffix("").as_posix(): name for name in found}
        missing = [stem for stem, _ in lines if stem not in by_stem]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the photos in {listed} are not there, such as {missing[0]}"
            )
        found = {by_stem[stem]: found[by_stem[stem]] for stem, _ in lines}
    if not found:
        shown = ", ".join(str(path) for path in given)
        raise ValueError(f"there is no photo in {shown}; known are {', '.join(sorted(SUFFIXES))}")
    return found


def _allowed(
    given: Sequence[Path], labels: Path, classes: tuple[str, ...], failures: dict[Path, str]
) -> dict[Path, tuple[int, ...]]:
    """The classes of each photo that the CSV file names."""
    if len(given) != 1 or not given[0].is_dir():
        raise ValueError("--labels takes one folder of photos, which its paths lie in")
    listed = folder_photos(given[0], ClassNames("the decoder", classes, classes, ()), labels)
    failures.update(listed.failures)
    return {item.photo: item.classes for item in listed.photos}


def _write_overlays(output: Path, photos: dict[Path, Path], classes: Sequence[str]) -> None:
    for relative, path in tqdm(photos.items(), desc="overlays", unit="photo"):
        picture = output / "overlays" / f"{relative}.png"
        if not picture.exists():
            picture.parent.mkdir(parents=True, exist_ok=True)
            save_overlay(picture, open_photo(path), read_mask(_mask(output, relative)), classes)


def _score(
    output: Path,
    masks: Path,
    photos: dict[Path, Path],
    classes: Sequence[str],
    failures: dict[Path, str],
) -> None:
    pairs = ((_mask(output, relative), masks / relative.with_suffix(".png")) for relative in photos)
    scores: dict[str, Any] | None = score_masks(
        tqdm(pairs, desc="score", unit="photo", total=len(photos)), classes, failures
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
