"""``vpl-clip-es``: the CLIP-ES pipeline with vision prototypes, stage by stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpl_plugin.cli.pipeline import Pipeline, common_settings, run_pipeline

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_es.stages import Settings
    from vpl_plugin.adapters.datasets import PhotoSet

__all__ = ["STAGES", "main", "needed_stages", "run_stage"]

STAGES = {
    "seeds": "photos -> text CAMs -> pixel features and seeds, a .npz a photo",
    "learn": "seeds -> vision prototypes (safetensors, and JSON with what made them)",
    "cams": "prototypes -> raw and refined CAMs, a .npz a photo",
    "masks": "CAMs -> dense CRF -> pseudo-masks, a palette PNG a photo",
    "evaluate": "seed and pseudo-mask mIoU and the gap, as JSON",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(word.split("=")[0] == "--upstream" for word in argv):
        from vpl_plugin.cli import clip_es_upstream

        return clip_es_upstream.main(argv)
    pipeline = Pipeline(
        program="vpl-clip-es",
        description="The CLIP-ES pipeline with vision prototypes. With --upstream PATH it runs"
        " CLIP-ES's own code from a checkout instead; see vpl-clip-es --upstream . --help.",
        output="vpl_clip_es",
        stages=STAGES,
        encoding=frozenset({"seeds", "cams"}),
        add_arguments=lambda parser: None,
        settings=_settings,
        needed=needed_stages,
        run_stage=run_stage,
        estimate=_estimate,
    )
    return run_pipeline(pipeline, argv)


def needed_stages(arguments: argparse.Namespace) -> list[str]:
    """What "all" runs."""
    wanted = list(STAGES)
    if arguments.prototypes != "vision":
        # Nothing is to be learned; the seeds stay, as the gap is measured on them.
        wanted.remove("learn")
    return wanted


def run_stage(
    stage: str,
    model: Any,
    photos: PhotoSet,
    settings: Settings,
    failures: dict[Path, str],
    device: str,
) -> None:
    """Runs a stage other than "evaluate"."""
    from vpl_plugin.adapters.clip_es import stages

    if stage == "seeds":
        stages.run_seeds(model, photos, settings, failures)
    elif stage == "learn":
        stages.run_learn(photos, settings, failures, device=device)
    elif stage == "cams":
        stages.run_cams(model, photos, settings, failures)
    elif stage == "masks":
        stages.run_masks(photos, settings, failures)


def _settings(arguments: argparse.Namespace, shard: tuple[int, int]) -> Settings:
    from vpl_plugin.adapters.clip_es.stages import Settings

    return Settings(**common_settings(arguments, shard))


def _estimate(
    model: Any, photos: PhotoSet, settings: Settings, stages: Sequence[str]
) -> Sequence[Any]:
    from vpl_plugin.adapters.clip_es.stages.estimate import estimate

    return estimate(model, photos, settings, stages)


if __name__ == "__main__":
    sys.exit(main())
