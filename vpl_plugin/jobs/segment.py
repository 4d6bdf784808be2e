"""Photos to label maps on disk by a trained decoder, with overlays and scores."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip import ClipModel, open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.jobs.listing import ListedPhoto
from vpl_plugin.localization import read_mask
from vpl_plugin.localization.mask_scores import score_masks
from vpl_plugin.plots.overlay import save_overlay
from vpl_plugin.results import Results, made_from
from vpl_plugin.segmentation.checkpoints import load_segmenter
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.predictions import Target, Wanted, write_predictions

__all__ = ["FOLDERS", "save_overlays", "score_photos", "segment_photos"]

logger = logging.getLogger(__name__)

# What is written below the output.
MASKS, OVERLAYS = FOLDERS = ("masks", "overlays")
SCORES = "scores.json"


def segment_photos(
    checkpoint: Path,
    photos: Mapping[Path, ListedPhoto],
    output: Path,
    load: Callable[[], ClipModel],
    settings: InferenceSettings,
    failures: dict[Path, str],
    *,
    crf: bool = False,
    quick_gelu: bool | None = None,
    workers: int = 1,
) -> dict[Path, ListedPhoto]:
    """Writes the label maps that are not there yet.

    Args:
        checkpoint: ``decoder.safetensors`` of a training.
        photos: by the name of their files.
        output: folder to write; the label maps go to ``masks/NAME.png``.
        load: gives the encoder; called where there is something left to do.
        settings: how the photos are seen.
        failures: gets the photos that could not be done.
        crf: sharpen with a dense CRF.
        quick_gelu: what was asked for of the encoder, as :func:`~vpl_plugin.load_clip` takes it.
        workers: processes for the CRF.

    Returns:
        Those of the photos whose label maps are there.

    Raises:
        InputError: the folder holds those of other settings, or the encoder is not the one that
            the decoder was trained on.
        OSError: a file cannot be written.
    """
    Results.claim(
        output,
        {
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            **settings.views(),
            "crf": crf,
            "quick_gelu": quick_gelu,
        },
    )
    wanted = {
        name: Wanted(item.photo, (Target(_mask(output, name), crf, item.classes),))
        for name, item in photos.items()
    }

    def done() -> dict[Path, ListedPhoto]:
        return {
            name: photos[name]
            for name, (photo, targets) in wanted.items()
            if targets[0].is_made(photo)
        }

    before = done()
    logger.info("%d photos, %d of them done before", len(photos), len(before))
    if len(before) == len(wanted):
        return before
    segmenter = load_segmenter(checkpoint, load())
    write_predictions(segmenter, [*wanted.values()], settings, failures, workers=workers)
    return done()


def _mask(output: Path, name: Path) -> Path:
    # The suffix stays in the name, so that a.jpg and a.png keep apart.
    return output / MASKS / f"{name}.png"


def save_overlays(
    output: Path,
    photos: Mapping[Path, ListedPhoto],
    classes: Sequence[str],
    failures: dict[Path, str],
) -> None:
    """Writes the pictures that are not there yet, or whose label map has changed.

    Args:
        output: as of :func:`segment_photos`; they go to ``overlays/NAME.png``.
        photos: that have label maps.
        classes: the F foreground names.
        failures: gets the photos that cannot be shown.

    Raises:
        OSError: a file cannot be written.
    """
    overlays = Results(output / OVERLAYS)
    for name, item in tqdm(photos.items(), desc="overlays", unit="photo"):
        mask = _mask(output, name)
        inputs = made_from(mask) or ""
        if overlays.is_made(str(name), inputs, ".png"):
            continue
        picture = overlays.new_file(str(name), ".png")
        try:
            photo = open_photo(item.photo)
            save_overlay(picture, photo, read_mask(mask), classes, made_from=inputs)
        # The photo may have been removed or changed since it was segmented.
        except (InputError, FileNotFoundError) as error:
            failures.setdefault(item.photo, f"no overlay: {error}")


def score_photos(
    output: Path,
    photos: Mapping[Path, ListedPhoto],
    classes: Sequence[str],
    failures: dict[Path, str],
) -> str | None:
    """Scores the label maps that have a ground truth.

    Args:
        output: as of :func:`segment_photos`; the figures go to ``scores.json``.
        photos: that have label maps.
        classes: the F foreground names.
        failures: gets the ground truths that do not fit.

    Returns:
        The figures in words; None where not one ground truth fits.

    Raises:
        InputError: not one of them shows a class.
        OSError: a file cannot be written.
    """
    truths = {name: item.truth for name, item in photos.items() if item.truth is not None}
    pairs = ((_mask(output, name), truth) for name, truth in truths.items())
    scores: dict[str, Any] | None = score_masks(
        tqdm(pairs, desc="score", unit="photo", total=len(truths)), classes, failures
    )
    if scores is None:
        logger.error("not one photo has a ground truth that fits")
        return None
    with whole_file(output / SCORES) as part:
        part.write_text(json.dumps(scores, indent=2) + "\n")
    return (
        f"mIoU {100 * scores['miou']:.1f}, pixel accuracy {100 * scores['pixel_accuracy']:.1f}"
        f" ({scores['photos']} photos; IoU of each class in {output / SCORES})"
    )
