"""Rows IV to VI of Table 3: decoders with and without RSC, their masks, scores and regions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.datasets import PhotoSet, SetPhoto
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip import open_photo
from vpl_plugin.clip.out_of_memory import noted
from vpl_plugin.errors import InputError
from vpl_plugin.localization import read_mask
from vpl_plugin.localization.mask_scores import score_masks
from vpl_plugin.localization.photo_counts import PHOTO_COUNTS, write_photo_counts
from vpl_plugin.results import Results
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.compactness import compactness
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.predictions import Target, Wanted, write_predictions
from vpl_plugin.segmentation.regions import region_embeddings
from vpl_plugin.segmentation.training import DECODER_FILE

__all__ = ["Regions", "decoder_name", "mask_of", "measure_decoder"]

logger = logging.getLogger(__name__)

SCORES = "scores.json"
REGIONS = "regions.npz"


class Regions(NamedTuple):
    """Region embeddings of the val photos under their true masks.

    Attributes:
        embeddings: (R, D) float32.
        classes: (R,) int64 from 0.
    """

    embeddings: np.ndarray
    classes: np.ndarray


def decoder_name(rsc: bool, seed: int) -> str:
    """The folder of a decoder below ``decoders`` and ``segmentations``."""
    return f"{'rsc' if rsc else 'ce'}_seed{seed}"


def mask_of(folder: Path, kind: str, item: SetPhoto) -> Path:
    """Where the label map of a photo lies; kinds as :func:`measure_decoder` gives them."""
    return folder / kind / f"{item.name}.png"


def measure_decoder(
    segmenter: Segmenter,
    decoder: Path,
    folder: Path,
    photos: PhotoSet,
    settings: InferenceSettings,
    failures: dict[Path, str],
    *,
    crf: bool,
    workers: int,
) -> tuple[dict[str, Any], Regions]:
    """Segments the photos, scores them, and measures how compact the regions are.

    Args:
        segmenter: the decoder on its encoder.
        decoder: its folder.
        folder: for label maps, scores and regions; what is there stays.
        photos: with ground truth.
        settings: how the photos are seen.
        failures: gets the photos that cannot be done.
        crf: with CRF too.
        workers: processes for the CRF.

    Returns:
        "scores" of the kinds "free" (no image-level labels), "given" (only the photo's classes
        allowed), "crf" and "crf_given"; "compactness" and "centred_compactness", about the mean of
        the regions (None where there are too few); and the regions.
    """
    kinds = {"free": (False, False), "given": (False, True)}
    if crf:
        kinds.update(crf=(True, False), crf_given=(True, True))
    Results.claim(
        folder,
        {
            "decoder": hashlib.sha256((decoder / DECODER_FILE).read_bytes()).hexdigest(),
            **settings.views(),
            "photos": hashlib.sha256(repr([i[:3] for i in photos.photos]).encode()).hexdigest(),
        },
    )
    wanted = [
        Wanted(
            item.photo,
            tuple(
                Target(mask_of(folder, kind, item), sharpened, item.classes if given else None)
                for kind, (sharpened, given) in kinds.items()
            ),
        )
        for item in photos.photos
    ]
    write_predictions(
        segmenter, wanted, settings, failures, workers=workers, about=f"segment {folder.name}"
    )
    found = [item for item in photos.photos if item.mask and item.photo not in failures]
    regions = _regions(segmenter, folder, found, failures)
    scores = _scores(folder, found, kinds, segmenter.classes, failures)
    compact: dict[bool, dict[str, Any] | None] = {False: None, True: None}
    try:
        for centred in compact:
            compact[centred] = compactness(
                torch.from_numpy(regions.embeddings),
                torch.from_numpy(regions.classes),
                centred=centred,
            )._asdict()
    except InputError as error:
        logger.warning("no compactness: %s", error)
    measured = {"compactness": compact[False], "centred_compactness": compact[True]}
    return {"scores": scores, **measured}, regions


def _scores(
    folder: Path,
    photos: Sequence[SetPhoto],
    kinds: dict[str, tuple[bool, bool]],
    classes: Sequence[str],
    failures: dict[Path, str],
) -> dict[str, Any]:
    file = folder / SCORES
    scores = json.loads(file.read_text()) if file.exists() else {}
    # Scores of an earlier version lack the errors.
    if all(
        scores.get(kind, {}).get("photos") == len(photos) and "errors" in scores[kind]
        for kind in kinds
    ):
        return scores
    by_kind = {}
    for kind in kinds:
        pairs = ((mask_of(folder, kind, item), item.mask) for item in photos if item.mask)
        counts: dict[Path, Tensor] = {}
        scored = score_masks(
            tqdm(pairs, desc=f"score {folder.name} {kind}", unit="photo", total=len(photos)),
            classes,
            failures,
            counts=counts,
        )
        if scored is None:
            raise InputError(f"not one photo has a ground truth that fits, see {folder}")
        scores[kind], by_kind[kind] = scored, torch.stack(list(counts.values()))
    # Whether a ground truth fits does not depend on the kind.
    names = [item.name for item in photos if item.mask in counts]
    write_photo_counts(folder / PHOTO_COUNTS, names, by_kind)
    with whole_file(file) as part:
        part.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def _regions(
    segmenter: Segmenter, folder: Path, photos: Sequence[SetPhoto], failures: dict[Path, str]
) -> Regions:
    """The regions of the photos; those that the file holds already are taken from it."""
    file = folder / REGIONS
    held = _read_regions(file) if file.exists() else {}
    found: dict[str, Regions] = {}
    for item in tqdm(photos, desc=f"regions {folder.name}", unit="photo"):
        if item.name in held:
            found[item.name] = held[item.name]
        elif item.mask is not None:
            with noted(failures, item.photo, "its regions do not fit in memory."):
                rows, classes = region_embeddings(
                    segmenter, open_photo(item.photo), read_mask(item.mask)
                )
                found[item.name] = Regions(rows.numpy(), classes.numpy())
    if not found:
        raise InputError("not one photo of the val split has a ground truth that fits")
    together = Regions(*(np.concatenate(parts) for parts in zip(*found.values(), strict=True)))
    if found.keys() != held.keys():
        with whole_file(file) as part:
            np.savez(
                part,
                photos=np.array([*found]),
                regions=np.array([len(one.classes) for one in found.values()]),
                **together._asdict(),
            )
    return together


def _read_regions(file: Path) -> dict[str, Regions]:
    """The regions of each photo, by its name."""
    with np.load(file, allow_pickle=False) as stored:
        names, ends = stored["photos"].tolist(), stored["regions"].cumsum()[:-1]
        parts = (np.split(stored[name], ends) for name in Regions._fields)
        return {name: Regions(*part) for name, *part in zip(names, *parts, strict=True)}
