"""``vpl table3``: rows I to VI of the paper's Table 3, and Fig. 4, on a data set."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.adapters.pipeline.options import add_options, settings_of
from vpl_plugin.cli.data_options import add_data_arguments, data_source, split_help, split_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.cli.text_options import add_text_arguments, changed_texts, own_texts
from vpl_plugin.experiments.table3.run import check_table3, table3
from vpl_plugin.experiments.table3.settings import Table3Settings
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.settings import TrainingSettings

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] = ()) -> None:
    """The options of ``vpl table3``."""
    data = parser.add_argument_group("data")
    add_data_arguments(data, argv, splits=True)
    data.add_argument(
        "--train", required=True, help=f"split for prototypes and decoders: {split_help(argv)}"
    )
    data.add_argument("--val", required=True, help="split that the rows are scored on")
    data.add_argument("--masks", help="folder of ground-truth PNGs (default: the data set's)")
    add_model_arguments(parser.add_argument_group("model"))
    add_text_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("vpl_table3"), help="folder to write")
    own = ("output", "sources", "training", "inference")
    add_options(parser, Table3Settings, leave_out=own)
    add_options(parser.add_argument_group("phase 2"), TrainingSettings, leave_out=("seed",))
    add_options(parser.add_argument_group("inference"), InferenceSettings)


def run(arguments: argparse.Namespace) -> int:
    """Runs what is not done yet and prints the table. Returns the exit code."""
    photos, sources = {}, {}
    for name in ("train", "val"):
        split = split_photos(arguments, getattr(arguments, name), arguments.masks)
        names = own_texts(split.names, arguments)
        photos[name] = split._replace(names=names)
        source = data_source(arguments, getattr(arguments, name))
        sources[name] = {**source, "texts": changed_texts(names, split.names)}
    settings = settings_of(
        arguments,
        Table3Settings,
        sources=sources,
        training=settings_of(arguments, TrainingSettings),
        inference=settings_of(arguments, InferenceSettings),
    )
    check_table3(photos, settings)
    failures = {**photos["train"].failures, **photos["val"].failures}
    with reported(failures):
        sys.stdout.write(table3(load_model(arguments), photos, settings, failures))
    logger.info("Look at %s", (settings.output / "table3.md").resolve())
    return 1 if failures else 0
