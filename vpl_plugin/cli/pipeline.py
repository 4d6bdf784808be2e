"""What ``vpl-clip-es`` and ``vpl-clip-cpal`` share: arguments, data, stages in turn, reports."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vpl_plugin.cli.data_options import named_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model, model_source
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_es.stages import Settings
    from vpl_plugin.adapters.datasets import PhotoSet
    from vpl_plugin.cli.ranks import Ranks

__all__ = ["Pipeline", "common_settings", "run_pipeline"]

logger = logging.getLogger(__name__)

UNITS = ("B", "kB", "MB", "GB", "TB")


class Pipeline(NamedTuple):
    """A command of stages.

    Attributes:
        program: its name.
        description: for --help.
        output: its default folder.
        stages: name -> what it does, in their order; "evaluate" comes last.
        encoding: the stages that need the model.
        add_arguments: adds the options that this command alone has.
        settings: its settings, from the arguments and (rank, world size).
        needed: which of the stages "all" runs with these arguments.
        run_stage: runs one, given its name, the model (None unless it is needed), the photos, the
            settings, the failures and the device.
        estimate: the estimates of --dry-run.
    """

    program: str
    description: str
    output: str
    stages: Mapping[str, str]
    encoding: frozenset[str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    settings: Callable[[argparse.Namespace, tuple[int, int]], Settings]
    needed: Callable[[argparse.Namespace], list[str]]
    run_stage: Callable[[str, Any, PhotoSet, Settings, dict[Path, str], str], None]
    estimate: Callable[[Any, PhotoSet, Settings, Sequence[str]], Sequence[Any]]


def run_pipeline(pipeline: Pipeline, argv: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    arguments = _parser(pipeline).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    failures: dict[Path, str] = {}
    try:
        _run(pipeline, arguments, failures)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                f"the disk of {arguments.output} is full. What was written is whole and stays:"
                " make room and run the same command again"
            )
        else:
            message = str(error)
        print(f"{pipeline.program} {arguments.stage}: {message}", file=sys.stderr)
        return 2
    except (ValueError, ImportError, FloatingPointError) as error:
        print(f"{pipeline.program} {arguments.stage}: {error}", file=sys.stderr)
        return 2
    finally:
        for path, why in failures.items():
            logger.error("failed: %s: %s", path, why)
    return 1 if failures else 0


def _parser(pipeline: Pipeline) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=pipeline.program, description=pipeline.description)
    commands = parser.add_subparsers(dest="stage", required=True)
    every = {**pipeline.stages, "all": "all stages one after the other"}
    about = "pictures of the CAMs and masks that are there, text beside vision prototypes"
    for name, what in {**every, "panels": about}.items():
        command = commands.add_parser(name, help=what, description=what)
        _add_arguments(command, pipeline.output)
        add_text_arguments(command)
        pipeline.add_arguments(command)
        if name == "panels":
            command.add_argument("--count", type=int, default=12, help="photos (default: 12)")
    return parser


def _add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=("voc", "coco", "folder"), required=True)
    data.add_argument(
        "--root", type=Path, required=True, help="VOC2012, COCO's folder, or a folder of photos"
    )
    data.add_argument(
        "--split",
        help="VOC: split file, or the name of a list in ImageSets/Segmentation (default:"
        " train_aug); COCO: a label list as CLIP-ES has it",
    )
    data.add_argument(
        "--subset", default="train2014", help="COCO's folder of photos (default: train2014)"
    )
    data.add_argument("--instances", type=Path, help="COCO's instance JSON")
    data.add_argument(
        "--labels",
        help='VOC: "annotations" (default) or "masks"; folder: a CSV with the header photo,labels'
        " (default: the sub-folder's name is the label)",
    )
    data.add_argument("--classes", help='folder: "voc", "coco", or names with commas between')
    data.add_argument(
        "--masks", help="folder of ground-truth PNGs; for VOC and COCO below the root"
    )
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    seeds = parser.add_argument_group("seeds and prototypes")
    seeds.add_argument("--threshold", type=float, default=0.4, help="Phi (default: 0.4)")
    seeds.add_argument(
        "--pixels-per-photo",
        type=int,
        default=128,
        help="kept of each photo; 0 keeps all (default: 128)",
    )
    seeds.add_argument("--seed", type=int, default=0, help="of that draw (default: 0)")
    seeds.add_argument("--tau-I", type=float, default=0.03, help="temperature (default: 0.03)")
    seeds.add_argument(
        "--anchor",
        type=float,
        default=0.1,
        help="weight of the prior at the text prototypes, 0 for none (default: 0.1)",
    )
    seeds.add_argument("--solver", choices=("apgd", "pgd", "pgd_halving"), default="apgd")
    seeds.add_argument("--iterations", type=int, default=3000, help="at most (default: 3000)")
    seeds.add_argument("--tolerance", type=float, default=3e-4, help="to stop (default: 0.0003)")
    maps = parser.add_argument_group("CAMs and masks")
    maps.add_argument(
        "--prototypes",
        default="vision",
        help='"vision" (learned from the seeds), "text", or a .safetensors of an earlier run',
    )
    maps.add_argument(
        "--power", type=float, default=1.0, help="of the background score (default: 1)"
    )
    maps.add_argument(
        "--confidence", type=float, default=0.95, help="below it pixels are 255 (default: 0.95)"
    )
    maps.add_argument(
        "--parity", action="store_true", help="CLIP-ES's exact numbers, its rounding included"
    )
    maps.add_argument(
        "--upstream-files", action="store_true", help="CAMs as CLIP-ES's .npy files too"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--output", type=Path, default=Path(output), help="folder to write")
    work.add_argument("--batch-size", type=int, default=8, help="photos at once (default: 8)")
    work.add_argument(
        "--workers", type=int, help="decoding threads, CRF processes (default: the CPU's cores)"
    )
    work.add_argument(
        "--dry-run", action="store_true", help="tell photos, disk and time, and write nothing"
    )


def _run(pipeline: Pipeline, arguments: argparse.Namespace, failures: dict[Path, str]) -> None:
    # Imported here: --help should not wait for torch.
    from vpl_plugin.adapters.clip_es.stages import run_evaluate
    from vpl_plugin.cli.ranks import joined_ranks
    from vpl_plugin.localization.ground_truth import check_shows_classes

    photos = named_photos(
        arguments.dataset,
        arguments.root,
        split=arguments.split,
        labels=arguments.labels,
        classes=arguments.classes,
        masks=arguments.masks,
        subset=arguments.subset,
        instances=arguments.instances,
    )
    failures.update(photos.failures)
    names = own_texts(photos.names, arguments)
    texts = changed_texts(names, photos.names)
    photos = photos._replace(names=names)
    if arguments.stage == "panels":
        from vpl_plugin.cli.clip_es_panels import run_panels

        if arguments.count < 1:
            raise ValueError(f"--count must be 1 or more; got {arguments.count}")
        settings = _with_texts(pipeline.settings(arguments, (0, 1)), texts)
        folder = run_panels(photos, settings, failures, count=arguments.count)
        logger.info("Look at %s", folder.resolve())
        return
    wanted = pipeline.needed(arguments) if arguments.stage == "all" else [arguments.stage]
    if "evaluate" in wanted:
        # Masks without a class are refused now, not after the hours of the stages before.
        truths = (item.mask for item in photos.photos if item.mask)
        check_shows_classes(truths, len(photos.names.labels))
    with joined_ranks(arguments.device) as ranks:
        settings = _with_texts(pipeline.settings(arguments, (ranks.rank, ranks.world)), texts)
        if arguments.stage == "all":
            _check_needs(settings)
        if ranks.rank:
            # The first process speaks for all.
            logging.getLogger().setLevel(logging.CRITICAL)
        _run_stages(pipeline, arguments, wanted, photos, settings, failures, ranks)
    # The group is left by now: its figures are those of one process, and torchmetrics would else
    # wait for the others.
    if "evaluate" in wanted and not arguments.dry_run and ranks.rank == 0:
        figures = run_evaluate(photos, settings, failures)
        if figures is not None:
            _show_figures(figures, settings)


def _with_texts(settings: Settings, texts: dict[str, Any] | None) -> Settings:
    """What CLIP is told belongs to what every stage is made from."""
    return dataclasses.replace(settings, source={**settings.source, "texts": texts})


def _check_needs(settings: Settings) -> None:
    """What a late stage would miss is told now, not after the hours of those before it."""
    for file in settings.given:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")


def _run_stages(
    pipeline: Pipeline,
    arguments: argparse.Namespace,
    wanted: Sequence[str],
    photos: PhotoSet,
    settings: Settings,
    failures: dict[Path, str],
    ranks: Ranks,
) -> None:
    """All but the evaluation, by every process together."""
    model: Any = None
    if arguments.dry_run or pipeline.encoding & {*wanted}:
        model = load_model(arguments, device=ranks.device)
    if arguments.dry_run:
        if ranks.rank == 0:
            _show_estimates(pipeline.estimate(model, photos, settings, wanted))
        return
    for stage in wanted:
        if stage != "evaluate":
            pipeline.run_stage(stage, model, photos, settings, failures, ranks.device)
        ranks.wait()
    ranks.merge(failures)
    logger.info("results are in %s", settings.output.resolve())


def common_settings(arguments: argparse.Namespace, shard: tuple[int, int]) -> dict[str, Any]:
    """What :class:`~vpl_plugin.adapters.clip_es.stages.Settings` takes, by name."""
    source = {
        name: None if value is None else str(value)
        for name, value in (
            ("dataset", arguments.dataset),
            ("root", arguments.root.resolve()),
            ("labels", arguments.labels),
            ("classes", arguments.classes),
            ("subset", arguments.subset if arguments.dataset == "coco" else None),
        )
    }
    return {
        "output": arguments.output,
        "source": {**source, **model_source(arguments)},
        "prototypes": arguments.prototypes,
        "threshold": arguments.threshold,
        "pixels_per_photo": arguments.pixels_per_photo or None,
        "seed": arguments.seed,
        "tau_I": arguments.tau_I,
        "anchor": arguments.anchor,
        "solver": arguments.solver,
        "iterations": arguments.iterations,
        "tolerance": arguments.tolerance,
        "power": arguments.power,
        "confidence": arguments.confidence,
        "parity": arguments.parity,
        "upstream_files": arguments.upstream_files,
        "batch_size": arguments.batch_size,
        "workers": arguments.workers if arguments.workers is not None else os.cpu_count() or 1,
        "shard": shard,
    }


def _show_estimates(rows: Sequence[Any]) -> None:
    for row in rows:
        took = "" if row.seconds is None else f", about {_duration(row.seconds)}"
        print(f"{row.stage}: {row.photos} photos, about {_size(row.bytes)}{took}")


def _show_figures(figures: dict[str, Any], settings: Settings) -> None:
    print(f"{settings.prototypes} prototypes, {figures['photos']} photos")
    for name in ("raw", "refined"):
        scores = figures[name]
        print(f"  seed mIoU {name}: {100 * scores['miou']:.1f} (power {scores['power']:g})")
    if "pseudo_masks" in figures:
        masks = figures["pseudo_masks"]
        print(
            f"  pseudo-mask mIoU: {100 * masks['labels']:.1f};"
            f" {100 * masks['kept']:.0f} % of the pixels kept"
        )
    if figures["gap"] is not None:
        print(f"  gap: {figures['gap']:.3f}")
    print(f"  {settings.scores}")


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
