"""What a run of Table 3 is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.pipeline.options import option
from vpl_plugin.checks import check_choice, check_count, check_not_negative, check_positive
from vpl_plugin.errors import InputError
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.settings import TrainingSettings

__all__ = ["SUPERVISION", "Table3Settings"]

SUPERVISION = ("vision/masks", "vision/labels", "text/masks", "text/labels")


@dataclass(frozen=True)
class Table3Settings:
    """The settings of all rows.

    Attributes:
        output: folder to write.
        sources: of "train" and "val": the data in words, as the stages note them.
        training: of the decoders with RSC, with any seed.
        inference: how the val photos are seen.
        tau_I: temperature of the vision prototypes.
        anchor: weight of the prior at the text prototypes, 0 for none.
        threshold: Phi of the seeds.
        background_power: of the background score before the CRF.
        confidence: of the CRF; below it pixels are unknown.
        supervision: vision/masks, vision/labels, text/masks or text/labels: the prototypes of the
            pseudo-masks, and whether the CRF's unsure pixels are left out of them (masks) or not
            (labels).
        seeds: one decoder each, twice.
        cache: train from cached tokens; without, the encoder runs on augmented photos all along.
        checkpoint_every: iterations between two checkpoints.
        workers: decoding threads, CRF processes; as many as the CPU has cores by default.
        panels: photos to show, 0 for none.
        tsne: draw the regions.

    Raises:
        InputError: a setting is out of range.
    """

    output: Path
    sources: Mapping[str, Mapping[str, Any]]
    training: TrainingSettings
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    tau_I: float = option(Settings.tau_I, group="phase 1")
    anchor: float = Settings.anchor
    threshold: float = Settings.threshold
    background_power: float = Settings.power
    confidence: float = Settings.confidence
    supervision: str = option(SUPERVISION[0], group="rows IV to VI")
    seeds: tuple[int, ...] = (0,)
    cache: bool = True
    checkpoint_every: int = 500
    workers: int = option(factory=lambda: os.cpu_count() or 1, group="work")
    panels: int = 12
    tsne: bool = True

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds must differ; got {list(self.seeds)}")
        check_choice("supervision", self.supervision, SUPERVISION)
        check_count("checkpoint_every", self.checkpoint_every)
        check_not_negative("panels", self.panels)
        # Without it rows V and VI would be row IV.
        check_positive("lambda_rsc", self.training.lambda_rsc)
        for split in self.sources:
            self.phase1(split)

    def phase1(self, split: str) -> Settings:
        """Of the stages on "train" or "val"."""
        return Settings(
            output=self.output / split,
            source=self.sources[split],
            tau_I=self.tau_I,
            anchor=self.anchor,
            threshold=self.threshold,
            power=self.background_power,
            confidence=self.confidence,
            workers=self.workers,
        )

    def decoder(self, seed: int, *, rsc: bool) -> TrainingSettings:
        """Of one decoder."""
        weight = self.training.lambda_rsc if rsc else 0.0
        return replace(self.training, seed=seed, lambda_rsc=weight)
