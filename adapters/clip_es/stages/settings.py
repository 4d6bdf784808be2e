"""What a run of the pipeline is asked for, and where its files lie."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vpl_plugin.adapters.clip_es.learning import DEFAULT_ANCHOR

__all__ = ["PROTOTYPES", "TEXT_PROTOTYPES", "Settings"]

PROTOTYPES = "prototypes.safetensors"
TEXT_PROTOTYPES = "text_prototypes.safetensors"
NAMED_PROTOTYPES = ("vision", "text")


@dataclass(frozen=True)
class Settings:
    """The settings of all stages.

    Attributes:
        output: folder of all files.
        source: the data and the model in words, for each stage's run.json.
        prototypes: of the CAMs: "vision" (learned by the stage before), "text", or a
            .safetensors.
        threshold: Phi of the seeds.
        pixels_per_photo: how many pixels the seeds keep of each photo; None is all.
        seed: of that draw.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        solver: of :func:`vpl_plugin.learn_vision_prototypes`.
        iterations: T_w, the most iterations.
        tolerance: where the solver stops.
        power: of the background score before the CRF.
        confidence: pixels below it are 255 in the pseudo-masks.
        parity: upstream's exact numbers: positions rounded to float16, and the CRF sees the photo
            as upstream's script hands it over.
        upstream_files: write the CAMs as upstream's .npy files too.
        batch_size: the most photos encoded together.
        workers: threads that decode, and processes that run the CRF.
        shard: (rank, world size): this process takes every world-size-th batch.
    """

    output: Path
    source: Mapping[str, Any] = field(default_factory=dict)
    prototypes: str = "vision"
    threshold: float = 0.4
    pixels_per_photo: int | None = 128
    seed: int = 0
    tau_I: float = 0.03
    anchor: float = DEFAULT_ANCHOR
    solver: str = "apgd"
    iterations: int = 3000
    tolerance: float = 3e-4
    power: float = 1.0
    confidence: float = 0.95
    parity: bool = False
    upstream_files: bool = False
    batch_size: int = 8
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        for name in ("seed", "tolerance", "anchor"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite, 0 or more; got {getattr(self, name)}")
        if self.pixels_per_photo is not None and self.pixels_per_photo < 1:
            raise ValueError(f"pixels_per_photo must be 1 or more; got {self.pixels_per_photo}")
        for name in ("threshold", "confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
        for name in ("tau_I", "power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)}")

    @property
    def position_dtype(self) -> torch.dtype | None:
        """What the resized positional embedding is rounded to."""
        return torch.float16 if self.parity else None

    @property
    def seeds(self) -> Path:
        """Folder of the seeds."""
        return self.output / "seeds"

    @property
    def learned(self) -> Path:
        """Folder of the learned prototypes."""
        return self.output / "prototypes"

    @property
    def kind(self) -> Path:
        """Folder of what the prototypes in use give: text, vision and a file's keep apart."""
        named = self.prototypes in NAMED_PROTOTYPES
        return self.output / (self.prototypes if named else f"with_{Path(self.prototypes).stem}")

    @property
    def prototypes_file(self) -> Path:
        """The prototypes that the CAMs are made from."""
        if self.prototypes == "text":
            return self.seeds / TEXT_PROTOTYPES
        learned = self.prototypes == "vision"
        return self.learned / PROTOTYPES if learned else Path(self.prototypes)

    @property
    def given(self) -> tuple[Path, ...]:
        """Files of an earlier run that all stages together take."""
        return () if self.prototypes in NAMED_PROTOTYPES else (Path(self.prototypes),)

    @property
    def cams(self) -> Path:
        """Folder of the CAMs."""
        return self.kind / "cams"

    @property
    def upstream_cams(self) -> Path:
        """Folder of the CAMs in upstream's format."""
        return self.kind / "upstream_cams"

    @property
    def masks(self) -> Path:
        """Folder of the pseudo-masks, 255 where unsure."""
        return self.kind / "masks"

    @property
    def labels(self) -> Path:
        """Folder of the same before unsure pixels are left out: what mIoU is taken of."""
        return self.kind / "labels"

    @property
    def scores(self) -> Path:
        """The JSON file with the figures."""
        return self.kind / "evaluation.json"
