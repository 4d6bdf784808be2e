"""Rows I to III of Table 3: the stages of vpl-clip-es on the train and the val split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from vpl_plugin.adapters.clip_es import stages
from vpl_plugin.adapters.clip_es.stages.settings import PROTOTYPES, Settings
from vpl_plugin.adapters.datasets import PhotoSet
from vpl_plugin.clip import ClipModel
from vpl_plugin.run_folder import settings_of

__all__ = ["Phase1", "run_phase1"]


class Phase1(NamedTuple):
    """What the stages left.

    Attributes:
        prototypes: file of the vision prototypes.
        train: settings of the stages on the train split, for "text" and "vision".
        val: the same on the val split.
        figures: for "train" and "val" the evaluation of "text" and "vision", where there is ground
            truth.
    """

    prototypes: Path
    train: dict[str, Settings]
    val: dict[str, Settings]
    figures: dict[str, dict[str, dict[str, Any]]]


def run_phase1(
    model: ClipModel,
    train: tuple[PhotoSet, Settings],
    val: tuple[PhotoSet, Settings],
    supervision: str,
    failures: dict[Path, str],
) -> Phase1:
    """Runs what is not done yet: vision prototypes from the train split, CAMs, masks, scores.

    Args:
        model: the frozen CLIP model.
        train: photos and settings of the train split.
        val: the same of the val split.
        supervision: "text" or "vision": whose pseudo-masks of the train split are wanted.
        failures: gets the photos that cannot be done.

    Raises:
        ValueError: a folder holds results of other settings.
        OSError: a file cannot be written.
    """
    kinds = {}
    for name, (_, settings) in (("train", train), ("val", val)):
        learned = train[1].learned / PROTOTYPES
        vision = "vision" if name == "train" else str(learned)
        kinds[name] = {
            "text": dataclasses.replace(settings, prototypes="text"),
            "vision": dataclasses.replace(settings, prototypes=vision),
        }
    figures: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "val": {}}
    stages.run_seeds(model, train[0], train[1], failures)
    stages.run_learn(train[0], train[1], failures, device=str(model.device))
    for name, (photos, _) in (("train", train), ("val", val)):
        for kind, settings in kinds[name].items():
            stages.run_cams(model, photos, settings, failures)
            if kind == (supervision if name == "train" else "vision"):
                stages.run_masks(photos, settings, failures)
            found = _evaluation(photos, settings, failures)
            if found is not None:
                figures[name][kind] = found
    return Phase1(train[1].learned / PROTOTYPES, kinds["train"], kinds["val"], figures)


def _evaluation(
    photos: PhotoSet, settings: Settings, failures: dict[Path, str]
) -> dict[str, Any] | None:
    """The figures on disk where they are of these files, else new ones."""
    if settings.scores.exists():
        stored = json.loads(settings.scores.read_text())
        if (
            stored["photos"] == len(photos.photos)
            and stored["cams"] == settings_of(settings.cams, "cams")
            and ("pseudo_masks" in stored) == settings.masks.exists()
        ):
            return stored
    return stages.run_evaluate(photos, settings, failures)
