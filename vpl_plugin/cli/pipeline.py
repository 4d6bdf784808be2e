"""``vpl-clip-es``, ``vpl-clip-cpal`` and ``vpl run``: the stages of an adapter."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.methods import ADAPTERS
from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.adapters.pipeline.run import Adapter, Run, Stage, run_together
from vpl_plugin.cli.data_options import add_data_arguments, data_source, listed_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import exit_code, reported
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.distributed import Ranks, joined_ranks
from vpl_plugin.errors import InputError

__all__ = ["run_adapter"]

logger = logging.getLogger(__name__)


def run_adapter(name: str, program: str, argv: Sequence[str]) -> int:
    """Runs a stage of an adapter, or all of them.

    Args:
        name: of the adapter.
        program: what messages call the command.
        argv: a stage, and options.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    adapter = ADAPTERS[name]
    arguments = _parser(adapter, program, argv).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    failures: dict[Path, str] = {}
    with reported(failures):
        code = exit_code(f"{program} {arguments.stage}", lambda: _run(adapter, arguments, failures))
    return code or int(bool(failures))


def _parser(adapter: type[Adapter], program: str, argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=adapter.description)
    commands = parser.add_subparsers(dest="stage", required=True)
    every = {name: entry.about for name, entry in adapter.stages.items()} | {
        "all": "all stages one after the other",
        "panels": "pictures of the CAMs and masks that are there, text beside vision prototypes",
    }
    for name, about in every.items():
        command = commands.add_parser(name, help=about, description=about)
        add_data_arguments(command.add_argument_group("data"), argv)
        add_model_arguments(command.add_argument_group("model"))
        add_text_arguments(command)
        command.add_argument(
            "--output",
            type=Path,
            default=Path(adapter.output),
            help=f"folder to write (default: {adapter.output})",
        )
        add_options(command, adapter.settings, leave_out=("output", "source"))
        if name == "panels":
            command.add_argument("--count", type=int, default=12, help="photos (default: 12)")
        command.add_argument(
            "--dry-run", action="store_true", help="report photos, disk and time; write nothing"
        )
    return parser


def _run(adapter: type[Adapter], arguments: argparse.Namespace, failures: dict[Path, str]) -> int:
    photos = listed_photos(arguments)
    failures.update(photos.failures)
    names = own_texts(photos.names, arguments)
    source = {**data_source(arguments), "texts": changed_texts(names, photos.names)}
    settings = settings_of(arguments, adapter.settings, source=source)
    run: Run[Any] = Run(photos._replace(names=names), settings, failures=failures)
    if arguments.stage == "panels":
        _show_panels(run, arguments.count)
        return 0
    if arguments.stage == "all":
        stages = adapter.needed(settings)
        _check_given(settings)
    else:
        stages = [adapter.stages[arguments.stage].load()]
    if any(stage.name == "evaluate" for stage in stages):
        # Masks without a class are refused now, not after the hours of the stages before.
        from vpl_plugin.localization.ground_truth import check_shows_classes

        truths = (item.mask for item in photos.photos if item.mask)
        check_shows_classes(truths, len(photos.names.labels))
    # Imported here: --help should not wait for torch.
    from vpl_plugin.worker_pool import WorkerPool

    with WorkerPool(settings.workers) as run.pool:
        with joined_ranks(arguments.device) as ranks:
            if ranks.rank:
                # The first process speaks for all.
                logging.getLogger().setLevel(logging.CRITICAL)
            _run_stages(stages, run, arguments, ranks)
        # The group is left by now: figures are those of one process, and torchmetrics would else
        # wait for the others.
        if ranks.rank == 0 and not arguments.dry_run:
            for stage in stages:
                if stage.once and (figures := stage.run(dataclasses.replace(run, ranks=Ranks()))):
                    print(figures)
    return 0


def _show_panels(run: Run[Any], count: int) -> None:
    from vpl_plugin.plots.cam_panels import save_cam_panels

    if count < 1:
        raise InputError(f"--count must be 1 or more; got {count}")
    settings, photos = run.settings, run.photos.photos
    kinds = {"text": dataclasses.replace(settings, prototypes="text")}
    if settings.prototypes != "text":
        kinds["vision"] = settings
    folder = settings.output / "panels"
    shown = photos[:: max(1, len(photos) // count)][:count]
    save_cam_panels(folder, shown, run.photos.names.labels, kinds, run.failures)
    logger.info("Look at %s", folder.resolve())


def _check_given(settings: Any) -> None:
    """What a late stage would miss is reported now, not after the hours of those before it."""
    for file in settings.given:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")


def _run_stages(
    stages: Sequence[Stage], run: Run[Any], arguments: argparse.Namespace, ranks: Ranks
) -> None:
    """All but those that run once, by every process together."""
    run.ranks = ranks
    if arguments.dry_run or any(stage.needs_model for stage in stages):
        run.model = load_model(arguments, device=ranks.device)
    if arguments.dry_run:
        if ranks.rank == 0:
            _show_estimates(stages, run)
        return
    run_together(stages, run)
    logger.info("results are in %s", run.settings.output.resolve())


def _show_estimates(stages: Sequence[Stage], run: Run[Any]) -> None:
    from vpl_plugin.adapters.clip_es.estimate import Costs

    costs = Costs(run)
    for stage in stages:
        print(stage.estimate(run, costs))
