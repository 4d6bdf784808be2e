"""``vpl table3``: rows I to VI of the paper's Table 3, and Fig. 4, on a data set."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.checks import check_positive
from vpl_plugin.cli.data_options import (
    SPLIT_HELP,
    add_data_arguments,
    data_source,
    split_photos,
)
from vpl_plugin.cli.inference_options import add_inference_arguments, inference_settings
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.table3_decoders import decoder_name, measure_decoder
from vpl_plugin.cli.table3_intervals import row_differences
from vpl_plugin.cli.table3_panels import save_panels
from vpl_plugin.cli.table3_phase1 import Phase1, run_phase1
from vpl_plugin.cli.table3_report import markdown, table_rows
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.cli.training_options import add_training_arguments, training_settings
from vpl_plugin.clip import ClipModel
from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError
from vpl_plugin.localization.ground_truth import check_shows_classes
from vpl_plugin.plots.region_plot import check_tsne, save_region_plot
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.examples import Example, list_examples
from vpl_plugin.segmentation.training import train_decoder

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

SUPERVISION = ("vision/masks", "vision/labels", "text/masks", "text/labels")
TAU_I = 0.03


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] = ()) -> None:
    """The options of ``vpl table3``."""
    data = parser.add_argument_group("data")
    add_data_arguments(data, argv, splits=True)
    data.add_argument(
        "--train", required=True, help=f"split for prototypes and decoders. {SPLIT_HELP}"
    )
    data.add_argument("--val", required=True, help="split that the rows are scored on")
    data.add_argument("--masks", help="folder of ground-truth PNGs (default: the data set's)")
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    add_text_arguments(parser)
    phase1 = parser.add_argument_group("phase 1")
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, about in (
        ("tau_I", "temperature of the vision prototypes"),
        ("anchor", "weight of the prior at the text prototypes, 0 for none"),
        ("threshold", "Phi of the seeds"),
        ("background_power", "of the background score before the CRF"),
        ("confidence", "of the CRF; below it pixels are unknown"),
    ):
        default = defaults[name.removeprefix("background_")]
        phase1.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=default,
            help=f"{about} (default: {default})",
        )
    phase2 = parser.add_argument_group("phase 2")
    phase2.add_argument(
        "--supervision",
        choices=SUPERVISION,
        default=SUPERVISION[0],
        help="prototypes of the pseudo-masks, and whether the CRF's unsure pixels are left out of"
        f" them (masks) or not (labels) (default: {SUPERVISION[0]})",
    )
    phase2.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="one decoder each, twice (default: 0)"
    )
    phase2.add_argument(
        "--no-cache", action="store_true", help="run the encoder on augmented photos all along"
    )
    phase2.add_argument(
        "--checkpoint-every", type=int, default=500, help="iterations (default: 500)"
    )
    add_training_arguments(phase2)
    inference = parser.add_argument_group("inference")
    add_inference_arguments(inference)
    work = parser.add_argument_group("work")
    work.add_argument("--output", type=Path, default=Path("vpl_table3"), help="folder to write")
    work.add_argument(
        "--workers", type=int, help="decoding threads, CRF processes (default: the CPU's cores)"
    )
    work.add_argument(
        "--panels", type=int, default=12, help="photos to show, 0 for none (default: 12)"
    )
    work.add_argument("--no-tsne", action="store_true", help="no picture of the regions")


def run(arguments: argparse.Namespace) -> int:
    """Runs what is not done yet and prints the table. Returns the exit code."""
    if not arguments.no_tsne:
        # A missing package is reported now, not after hours.
        check_tsne()
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise InputError(f"--seeds must differ; got {arguments.seeds}")
    photos = {
        name: split_photos(arguments, getattr(arguments, name), arguments.masks)
        for name in ("train", "val")
    }
    of_set = photos["train"].names
    names = own_texts(of_set, arguments)
    photos = {name: split._replace(names=names) for name, split in photos.items()}
    if all(item.mask is None for item in photos["val"].photos):
        raise InputError("the val split has no ground truth: say where with --masks")
    failures: dict[Path, str] = {}
    for split in photos.values():
        truths = (item.mask for item in split.photos if item.mask)
        check_shows_classes(truths, len(split.names.labels))
        failures.update(split.failures)
    # Asked for now, so that settings out of range are reported before the work of hours.
    inference_settings(arguments)
    # Without it rows V and VI would be row IV.
    check_positive("--lambda-rsc", _training(arguments, 0, rsc=True).lambda_rsc)
    try:
        _run(arguments, photos, failures, changed_texts(names, of_set))
    except (MemoryError, FloatingPointError) as error:
        logger.error("vpl table3: %s", error)
        return 1
    finally:
        for path, why in failures.items():
            logger.error("failed: %s: %s", path, why)
    logger.info("Look at %s", (arguments.output / "table3.md").resolve())
    return 1 if failures else 0


def _run(
    arguments: argparse.Namespace,
    photos: dict[str, PhotoSet],
    failures: dict[Path, str],
    texts: dict[str, Any] | None,
) -> None:
    output: Path = arguments.output
    model = load_model(arguments)
    kind, folder = arguments.supervision.split("/")
    ranks = Ranks(device=str(model.device))
    train, val = (
        Run(photos[name], _phase1(arguments, name, texts), model, failures, ranks)
        for name in ("train", "val")
    )
    phase1 = run_phase1(train, val, kind)
    decoders: dict[str, list[Any]] = {"ce": [], "rsc": []}
    _write(arguments, photos, phase1, decoders)
    examples = _examples(photos["train"], getattr(phase1.train[kind], folder), failures)
    regions = {}
    for seed in arguments.seeds:
        for rsc in (False, True):
            found, of_decoder = _decoder(
                arguments, model, examples, phase1, photos["val"], failures, seed=seed, rsc=rsc
            )
            decoders["rsc" if rsc else "ce"].append(found)
            if seed == arguments.seeds[0]:
                regions["with RSC" if rsc else "without RSC"] = of_decoder
            _write(arguments, photos, phase1, decoders)
    ce, with_rsc = (
        output / "segmentations" / decoder_name(rsc, arguments.seeds[0]) for rsc in (False, True)
    )
    if arguments.panels > 0:
        shown = photos["val"].photos
        shown = shown[:: max(1, len(shown) // arguments.panels)][: arguments.panels]
        save_panels(output / "panels", shown, phase1, ce, with_rsc, failures)
    if not arguments.no_tsne:
        if min(len(found.classes) for found in regions.values()) < 4:
            logger.warning("fewer than 4 regions in the val photos: no t-SNE")
        else:
            save_region_plot(output / "regions.png", regions, photos["val"].names.labels)
    sys.stdout.write(_write(arguments, photos, phase1, decoders))


def _phase1(arguments: argparse.Namespace, split: str, texts: dict[str, Any] | None) -> Settings:
    return Settings(
        output=arguments.output / split,
        source={**data_source(arguments, getattr(arguments, split)), "texts": texts},
        tau_I=arguments.tau_I,
        anchor=arguments.anchor,
        threshold=arguments.threshold,
        power=arguments.background_power,
        confidence=arguments.confidence,
        workers=_workers(arguments),
    )


def _training(arguments: argparse.Namespace, seed: int, *, rsc: bool) -> Any:
    own: dict[str, Any] = {"seed": seed}
    if not rsc:
        own["lambda_rsc"] = 0.0
    return training_settings(arguments, cached=not arguments.no_cache, tau_I=arguments.tau_I, **own)


def _workers(arguments: argparse.Namespace) -> int:
    return arguments.workers if arguments.workers is not None else os.cpu_count() or 1


def _examples(photos: PhotoSet, masks: Path, failures: dict[Path, str]) -> list[Example]:
    """The train photos that phase 1 could do."""
    done = [item for item in photos.photos if item.photo not in failures]
    examples = list_examples(
        {item.name: item.photo for item in done},
        masks,
        len(photos.names.labels),
        classes={item.name: item.classes for item in done},
    )
    check_shows_classes((item.mask for item in examples), len(photos.names.labels))
    return examples


def _decoder(
    arguments: argparse.Namespace,
    model: ClipModel,
    examples: list[Example],
    phase1: Phase1,
    val: PhotoSet,
    failures: dict[Path, str],
    *,
    seed: int,
    rsc: bool,
) -> tuple[dict[str, Any], Any]:
    """A decoder trained and measured, or what an earlier run left of it."""
    output: Path = arguments.output
    name = decoder_name(rsc, seed)
    logger.info("decoder %s", name)
    segmenter = train_decoder(
        model,
        examples,
        Prototypes.load(phase1.prototypes),
        _training(arguments, seed, rsc=rsc),
        output / "decoders" / name,
        cache=None if arguments.no_cache else output / "cache",
        checkpoint_every=arguments.checkpoint_every,
        workers=0 if str(model.device) == "cpu" else _workers(arguments),
    )
    return measure_decoder(
        segmenter,
        output / "decoders" / name,
        output / "segmentations" / name,
        val,
        inference_settings(arguments),
        failures,
        crf=rsc,
        workers=_workers(arguments),
    )


def _write(
    arguments: argparse.Namespace,
    photos: dict[str, PhotoSet],
    phase1: Phase1,
    decoders: dict[str, list[Any]],
) -> str:
    """Writes table and figures as far as they are known. Returns the table."""
    output: Path = arguments.output
    settings = _training(arguments, arguments.seeds[0], rsc=True)
    about = (
        f"{arguments.dataset}, {len(photos['train'].photos)} train and"
        f" {len(photos['val'].photos)} val photos, encoder {arguments.model!r}; decoders trained"
        f" for {settings.iterations} iterations of {settings.batch_size} photos on"
        f" {arguments.supervision}."
    )
    of_decoders = (
        [output / "segmentations" / decoder_name(rsc, seed) for seed in arguments.seeds[:count]]
        for rsc, count in ((False, len(decoders["ce"])), (True, len(decoders["rsc"])))
    )
    differences = row_differences(phase1.val["vision"].scores.parent, *of_decoders)
    text = markdown(phase1.figures, decoders, arguments.seeds, about, differences)
    result = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in sorted(vars(arguments).items())
            if name not in ("command", "run")
        },
        "training": dataclasses.asdict(settings),
        "rows": [row._asdict() for row in table_rows(phase1.figures, decoders)],
        "differences": {
            told: {step: difference._asdict() for step, difference in steps.items()}
            for told, steps in differences.items()
        },
        "phase1": phase1.figures,
        "decoders": {
            name: dict(zip(map(str, arguments.seeds), found, strict=False))
            for name, found in decoders.items()
        },
    }
    with whole_file(output / "results.json") as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    with whole_file(output / "table3.md") as part:
        part.write_text(text, encoding="utf-8")
    return text
