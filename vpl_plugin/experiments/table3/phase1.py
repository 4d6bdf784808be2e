"""Rows I to III of Table 3: the stages of vpl-clip-es on the train and the val split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from vpl_plugin.adapters.clip_es.settings import PROTOTYPES, Settings
from vpl_plugin.adapters.clip_es.stages import CAMs, Learn, Masks, Seeds
from vpl_plugin.adapters.clip_es.stages.evaluate import evaluate, scored_inputs
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.worker_pool import WorkerPool

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


def run_phase1(train: Run[Settings], val: Run[Settings], supervision: str) -> Phase1:
    """Runs what is not done yet: vision prototypes from the train split, CAMs, masks, scores.

    Args:
        train: of the train split.
        val: of the val split.
        supervision: "text" or "vision": whose pseudo-masks of the train split are wanted.

    Raises:
        ValueError: a folder holds results of other settings.
        OSError: a file cannot be written.
    """
    # Starting processes takes seconds, and masks and scores of both splits want some.
    with WorkerPool(train.settings.workers) as pool:
        train, val = (dataclasses.replace(run, pool=pool) for run in (train, val))
        return _run_stages(train, val, supervision)


def _run_stages(train: Run[Settings], val: Run[Settings], supervision: str) -> Phase1:
    learned = train.settings.learned / PROTOTYPES
    kinds: dict[str, dict[str, Settings]] = {}
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    Seeds().run(train)
    Learn().run(train)
    for name, run, vision in (("train", train, "vision"), ("val", val, str(learned))):
        kinds[name] = {
            "text": dataclasses.replace(run.settings, prototypes="text"),
            "vision": dataclasses.replace(run.settings, prototypes=vision),
        }
        figures[name] = {}
        for kind, settings in kinds[name].items():
            of_kind = dataclasses.replace(run, settings=settings)
            CAMs().run(of_kind)
            if kind == (supervision if name == "train" else "vision"):
                Masks().run(of_kind)
            found = _evaluation(of_kind)
            if found is not None:
                figures[name][kind] = found
    return Phase1(learned, kinds["train"], kinds["val"], figures)


def _evaluation(run: Run[Settings]) -> dict[str, Any] | None:
    """The figures on disk where they are of these files, else new ones."""
    if run.settings.scores.exists():
        stored = json.loads(run.settings.scores.read_text())
        if stored.get("inputs") == scored_inputs(run):
            return stored
    return evaluate(run)
