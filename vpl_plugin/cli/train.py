"""``vpl train``: the decoder of phase 2, trained on pseudo-masks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from vpl_plugin.adapters.pipeline.options import add_options, given_options, settings_of
from vpl_plugin.cli.data_options import add_data_arguments, split_help, split_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.outcome import reported
from vpl_plugin.distributed import Ranks, joined_ranks
from vpl_plugin.errors import InputError
from vpl_plugin.localization.ground_truth import check_shows_classes
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.examples import Example, check_examples
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import DECODER_FILE, train_decoder
from vpl_plugin.segmentation.validation import validation

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

# Arguments of train_decoder that are no options, or options of other names.
LEFT_OUT = ("model", "examples", "prototypes", "settings", "output", "validate", "progress")


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] = ()) -> None:
    """The options of ``vpl train``."""
    data = parser.add_argument_group("data")
    add_data_arguments(data, argv, splits=True)
    data.add_argument("--train", required=True, help=f"split to train on: {split_help(argv)}")
    data.add_argument(
        "--masks", type=Path, required=True, help="folder of pseudo-masks, NAME.png per photo"
    )
    data.add_argument(
        "--prototypes", type=Path, required=True, help=".safetensors of vision prototypes"
    )
    data.add_argument("--val", help="split to validate on, if any")
    data.add_argument("--val-masks", help="its folder of ground-truth PNGs")
    add_model_arguments(parser.add_argument_group("model"))
    add_options(parser.add_argument_group("decoder and training"), TrainingSettings)
    work = parser.add_argument_group("work")
    work.add_argument("--output", type=Path, default=Path("vpl_train"), help="folder to write")
    add_options(work, train_decoder, leave_out=LEFT_OUT)


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on where it stopped. Returns the exit code: 1 where a photo is left out."""
    photos = split_photos(arguments, arguments.train, None)
    failures = dict(photos.failures)
    scored = _validation_examples(arguments, failures)
    prototypes = Prototypes.load(arguments.prototypes)
    labels = photos.names.labels
    prototypes.check_classes(labels, arguments.prototypes)
    settings = settings_of(arguments, TrainingSettings)
    examples = [
        Example(item.name, item.photo, arguments.masks / f"{item.name}.png", item.classes)
        for item in photos.photos
    ]
    options = given_options(arguments, train_decoder)
    with joined_ranks(arguments.device) as ranks, reported(failures, "left out"):
        if ranks.rank:
            # The first process speaks for all.
            logging.getLogger().setLevel(logging.CRITICAL)
        # Before the model is loaded; the ranks read a share each.
        check_examples(examples, len(labels), ranks=Ranks.of_group(), device=ranks.device)
        check_shows_classes((item.mask for item in examples), len(labels))
        logger.info("%d photos to train on", len(examples))
        train_decoder(
            load_model(arguments, device=ranks.device),
            examples,
            prototypes,
            settings,
            arguments.output,
            validate=validation(scored) if scored else None,
            **{name: value for name, value in options.items() if name not in LEFT_OUT},
        )
        logger.info("the decoder is %s", (arguments.output / DECODER_FILE).resolve())
    return 1 if failures else 0


def _validation_examples(arguments: argparse.Namespace, failures: dict[Path, str]) -> list[Example]:
    if arguments.val is None:
        return []
    scored = split_photos(arguments, arguments.val, arguments.val_masks)
    failures.update(scored.failures)
    examples = []
    for item in scored.photos:
        if item.mask is None:
            raise InputError("--val takes ground truth: say where with --val-masks")
        examples.append(Example(item.name, item.photo, item.mask, item.classes))
    check_examples(examples, len(scored.names.labels))
    check_shows_classes((item.mask for item in examples), len(scored.names.labels))
    return examples
