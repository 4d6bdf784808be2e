"""What a run of the pipeline is asked for, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpl_plugin.adapters.pipeline.options import option

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_ANCHOR", "PROTOTYPES", "TEXT_PROTOTYPES", "Settings"]

PROTOTYPES = "prototypes.safetensors"
TEXT_PROTOTYPES = "text_prototypes.safetensors"
NAMED_PROTOTYPES = ("vision", "text")
# As good as any at 5 to 467 photos (docs/evidence.md).
DEFAULT_ANCHOR = 0.1


@dataclass(frozen=True)
class Settings:
    """The settings of all stages; each is an option of the command.

    Attributes:
        output: folder to write.
        source: the data and the model in words, for each stage's run.json.
        threshold: Phi of the seeds, in [0, 1].
        pixels_per_photo: pixels that the seeds keep of each photo; None, on the command line 0,
            keeps all.
        seed: of that draw.
        tau_I: temperature of the vision distribution, above 0.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        solver: "apgd", "pgd", "pgd_halving", or one that a package of yours registers.
        iterations: T_w, the most iterations.
        tolerance: where the solver stops: a share of the gradient's scale.
        prototypes: of the CAMs: "vision" (learned from the seeds), "text", or a .safetensors of an
            earlier run.
        crf: whether the masks are sharpened with a dense CRF.
        power: of the background score.
        confidence: pixels below it are 255 in the pseudo-masks.
        parity: upstream's exact numbers: positions rounded to float16, and the CRF sees the photo
            as upstream's script hands it over.
        upstream_files: write the CAMs as CLIP-ES's .npy files too.
        keep_tokens: keep each photo's tokens in the folder tokens, so that no later stage encodes
            it again: 1.8 MB per photo of 500 x 375 pixels with "mini", 3.5 MB with ViT-B/16.
        batch_size: the most photos encoded together; by default 8 on a GPU, and 1 on a CPU, where
            as many are encoded at the same time as there are workers.
        workers: threads that decode, and on a CPU encode, and processes that run the CRF; as many
            as the CPU has cores by default.
    """

    output: Path
    source: Mapping[str, Any] = option(factory=dict)
    threshold: float = option(0.4, group="seeds and prototypes")
    pixels_per_photo: int | None = option(128, none="0")
    seed: int = 0
    tau_I: float = 0.03
    anchor: float = DEFAULT_ANCHOR
    solver: str = "apgd"
    iterations: int = 3000
    tolerance: float = 3e-4
    prototypes: str = option("vision", group="CAMs and masks")
    crf: bool = True
    power: float = 1.0
    confidence: float = 0.95
    parity: bool = False
    upstream_files: bool = False
    keep_tokens: bool = option(False, group="work")
    batch_size: int | None = None
    workers: int = option(factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        # Imported here: --help should not wait for torch.
        from vpl_plugin.checks import (
            check_choice,
            check_count,
            check_fraction,
            check_not_negative,
            check_positive,
        )
        from vpl_plugin.core.solvers import SOLVERS

        for name in ("workers", "iterations"):
            check_count(name, getattr(self, name))
        for name in ("batch_size", "pixels_per_photo"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("seed", "tolerance", "anchor"):
            check_not_negative(name, getattr(self, name))
        for name in ("threshold", "confidence"):
            check_fraction(name, getattr(self, name))
        for name in ("tau_I", "power"):
            check_positive(name, getattr(self, name))
        check_choice("solver", self.solver, SOLVERS)

    def facts(self, *names: str) -> dict[str, Any]:
        """Settings by their names, for what a result depends on."""
        return {name: getattr(self, name) for name in names}

    @property
    def position_dtype(self) -> torch.dtype | None:
        """What the resized positional embedding is rounded to."""
        import torch

        return torch.float16 if self.parity else None

    @property
    def seeds(self) -> Path:
        """Folder of the seeds."""
        return self.output / "seeds"

    @property
    def tokens(self) -> Path:
        """Folder of the kept tokens."""
        return self.output / "tokens"

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
    def learns(self) -> bool:
        """Whether prototypes are learned from this run's seeds."""
        return self.prototypes == "vision"

    @property
    def prototypes_source(self) -> str:
        """The prototypes asked for, as a run's settings note them."""
        named = self.prototypes in NAMED_PROTOTYPES
        return self.prototypes if named else Path(self.prototypes).name

    @property
    def chosen_file(self) -> Path:
        """The prototypes asked for."""
        if self.prototypes == "text":
            return self.seeds / TEXT_PROTOTYPES
        learned = self.prototypes == "vision"
        return self.learned / PROTOTYPES if learned else Path(self.prototypes)

    @property
    def prototypes_file(self) -> Path:
        """The prototypes that the CAMs are made from."""
        return self.chosen_file

    @property
    def given(self) -> tuple[Path, ...]:
        """Files of an earlier run that all stages together take."""
        return () if self.prototypes in NAMED_PROTOTYPES else (Path(self.prototypes),)

    @property
    def cams(self) -> Path:
        """Folder of the CAMs."""
        return self.kind / "cams"

    @property
    def probabilities(self) -> Path | None:
        """Folder of what the prototypes say of each pixel; None keeps none of it."""
        return None

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
