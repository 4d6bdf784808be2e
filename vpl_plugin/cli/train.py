"""``vpl train``: the decoder of phase 2, trained on pseudo-masks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vpl_plugin.cli.data_options import SPLIT_HELP, add_data_arguments, split_photos
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.cli.training_options import add_training_arguments, training_settings
from vpl_plugin.clip import open_photo
from vpl_plugin.distributed import Ranks, joined_ranks
from vpl_plugin.errors import InputError
from vpl_plugin.localization import SegmentationMeter, read_mask
from vpl_plugin.localization.ground_truth import check_shows_classes
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.examples import Example, check_examples
from vpl_plugin.segmentation.inference import most_likely, photo_views
from vpl_plugin.segmentation.training import DECODER_FILE, train_decoder

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

# Of text prototypes, which have none of their own.
DEFAULT_TAU_I = 0.03


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] = ()) -> None:
    """The options of ``vpl train``."""
    data = parser.add_argument_group("data")
    add_data_arguments(data, argv, splits=True)
    data.add_argument("--train", required=True, help=f"split to train on. {SPLIT_HELP}")
    data.add_argument(
        "--masks", type=Path, required=True, help="folder of pseudo-masks, NAME.png per photo"
    )
    data.add_argument(
        "--prototypes", type=Path, required=True, help=".safetensors of vision prototypes"
    )
    data.add_argument("--val", help="split to validate on, if any")
    data.add_argument("--val-masks", help="its folder of ground-truth PNGs")
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    settings = parser.add_argument_group("decoder and training")
    add_training_arguments(settings)
    settings.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    work = parser.add_argument_group("work")
    work.add_argument("--output", type=Path, default=Path("vpl_train"), help="folder to write")
    work.add_argument("--cache", type=Path, help="folder of the encoder's tokens: train from these")
    for name, default, what in (
        ("validate", 1000, "two validations"),
        ("checkpoint", 500, "two checkpoints"),
        ("log", 50, "two rows of metrics.csv"),
    ):
        work.add_argument(
            f"--{name}-every",
            type=int,
            default=default,
            help=f"iterations between {what} (default: {default})",
        )
    work.add_argument(
        "--workers", type=int, default=0, help="processes that read photos (default: none)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on where it stopped. Returns the exit code: 1 where a photo is left out."""
    photos = split_photos(arguments, arguments.train, None)
    failures = dict(photos.failures)
    validation = []
    if arguments.val is not None:
        scored = split_photos(arguments, arguments.val, arguments.val_masks)
        failures.update(scored.failures)
        for item in scored.photos:
            if item.mask is None:
                raise InputError("--val takes ground truth: say where with --val-masks")
            validation.append(Example(item.name, item.photo, item.mask, item.classes))
        check_examples(validation, len(scored.names.labels))
        check_shows_classes((item.mask for item in validation), len(scored.names.labels))
    prototypes = Prototypes.load(arguments.prototypes)
    labels = photos.names.labels
    prototypes.check_classes(labels, arguments.prototypes)
    settings = training_settings(
        arguments,
        cached=arguments.cache is not None,
        tau_I=prototypes.temperature or DEFAULT_TAU_I,
        seed=arguments.seed,
    )
    examples = [
        Example(item.name, item.photo, arguments.masks / f"{item.name}.png", item.classes)
        for item in photos.photos
    ]
    with joined_ranks(arguments.device) as ranks:
        if ranks.rank:
            # The first process speaks for all.
            logging.getLogger().setLevel(logging.CRITICAL)
        # Before the model is loaded; the ranks read a share each.
        check_examples(examples, len(labels), ranks=Ranks.of_group(), device=ranks.device)
        check_shows_classes((item.mask for item in examples), len(labels))
        logger.info("%d photos to train on", len(examples))
        try:
            train_decoder(
                load_model(arguments, device=ranks.device),
                examples,
                prototypes,
                settings,
                arguments.output,
                cache=arguments.cache,
                validate=_validation(validation) if validation else None,
                validate_every=arguments.validate_every,
                checkpoint_every=arguments.checkpoint_every,
                log_every=arguments.log_every,
                workers=arguments.workers,
            )
        except (MemoryError, FloatingPointError) as error:
            logger.error("vpl train: %s", error)
            return 1
    logger.info("the decoder is %s", (arguments.output / DECODER_FILE).resolve())
    for path, why in failures.items():
        logger.error("left out: %s: %s", path, why)
    return 1 if failures else 0


def _validation(examples: Sequence[Example]) -> Callable[[Segmenter], Mapping[str, float]]:
    """Measures a decoder on the photos, each whole and at its own size."""

    def validate(segmenter: Segmenter) -> dict[str, float]:
        meter = SegmentationMeter(
            len(segmenter.classes) + 1, ignore_index=IGNORE_INDEX, sum_over_ranks=False
        )
        for example in examples:
            views = photo_views(segmenter, open_photo(example.photo))
            meter.update(most_likely(views), read_mask(example.mask))
        scores = meter.compute()
        logger.info("validation mIoU: %.1f", 100 * scores.miou)
        return {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}

    return validate
