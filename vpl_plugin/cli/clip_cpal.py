"""``vpl-clip-cpal``: CLIP-ES with context prototype-aware learning, stage by stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vpl_plugin.cli import clip_es
from vpl_plugin.cli.pipeline import Pipeline, common_settings, run_pipeline

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_cpal.stages import CPALSettings
    from vpl_plugin.adapters.clip_es.stages import Settings
    from vpl_plugin.adapters.datasets import PhotoSet

__all__ = ["main"]

OF_CLIP_ES = clip_es.STAGES
STAGES = {
    "seeds": OF_CLIP_ES["seeds"],
    "learn": OF_CLIP_ES["learn"],
    "bank": "prototypes -> CAMs -> instance prototypes, a .npz a photo",
    "adapt": "instance prototypes -> context prototypes -> prototypes trained with them",
    "cams": "trained prototypes and context -> raw and refined CAMs, a .npz a photo",
    "masks": OF_CLIP_ES["masks"],
    "evaluate": OF_CLIP_ES["evaluate"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    pipeline = Pipeline(
        program="vpl-clip-cpal",
        description="CLIP-CPAL: the CLIP-ES pipeline with context prototype-aware learning, with"
        " text or vision prototypes. The stages seeds, learn, masks and evaluate are CLIP-ES's.",
        output="vpl_clip_cpal",
        stages=STAGES,
        encoding=frozenset({"seeds", "bank", "adapt", "cams"}),
        add_arguments=_add_arguments,
        settings=_settings,
        needed=_needed,
        run_stage=_run_stage,
        estimate=_estimate,
    )
    return run_pipeline(pipeline, sys.argv[1:] if argv is None else list(argv))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("context prototypes")

    def option(name: str, default: float, about: str) -> None:
        group.add_argument(
            name, type=type(default), default=default, help=f"{about} (default: {default})"
        )

    group.add_argument(
        "--context",
        type=Path,
        help='folder "adapted" of an earlier run: its context and prototypes are used as they are',
    )
    # Those of CPALSettings, whose import would keep --help waiting for torch.
    option("--capacity", 256, "instance prototypes of a class in the bank")
    option("--clusters", 8, "context prototypes of a class")
    option("--top-k", 3, "soft positives of an instance")
    option("--alignment", 1.0, "share of the way to the bank's features, 0 to 1")
    option("--epochs", 5, "of the self-supervised step; 0 leaves it out")
    option("--consistency", 1.0, "weight of its L1 term")
    option("--blend", 0.5, "share of the prototype-aware CAM in the CAM, 0 to 1")


def _settings(arguments: argparse.Namespace, shard: tuple[int, int]) -> CPALSettings:
    from vpl_plugin.adapters.clip_cpal.stages import CPALSettings

    return CPALSettings(
        **common_settings(arguments, shard),
        context=arguments.context,
        capacity=arguments.capacity,
        clusters=arguments.clusters,
        top_k=arguments.top_k,
        alignment=arguments.alignment,
        epochs=arguments.epochs,
        consistency=arguments.consistency,
        blend=arguments.blend,
    )


def _needed(arguments: argparse.Namespace) -> list[str]:
    """What "all" runs."""
    if arguments.context is not None:
        # The seeds stay, as the gap is measured on them.
        return [stage for stage in STAGES if stage not in ("learn", "bank", "adapt")]
    skipped = () if "learn" in clip_es.needed_stages(arguments) else ("learn",)
    return [stage for stage in STAGES if stage not in skipped]


def _run_stage(
    stage: str,
    model: Any,
    photos: PhotoSet,
    settings: Settings,
    failures: dict[Path, str],
    device: str,
) -> None:
    from vpl_plugin.adapters.clip_cpal import stages

    own = {
        "bank": stages.run_bank,
        "adapt": stages.run_adapt,
        "cams": stages.run_cpal_cams,
    }
    if stage in own:
        own[stage](model, photos, cast("CPALSettings", settings), failures)
    else:
        clip_es.run_stage(stage, model, photos, settings, failures, device)


def _estimate(
    model: Any, photos: PhotoSet, settings: Settings, stages: Sequence[str]
) -> Sequence[Any]:
    from vpl_plugin.adapters.clip_cpal.stages.estimate import estimate_cpal

    return estimate_cpal(model, photos, cast("CPALSettings", settings), stages)


if __name__ == "__main__":
    sys.exit(main())
