"""Rows I to VI of the paper's Table 3, and Fig. 4, on a data set."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip import ClipModel
from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError
from vpl_plugin.experiments.table3.decoders import decoder_name, measure_decoder
from vpl_plugin.experiments.table3.intervals import row_differences
from vpl_plugin.experiments.table3.panels import save_panels
from vpl_plugin.experiments.table3.phase1 import Phase1, run_phase1
from vpl_plugin.experiments.table3.report import markdown, table_rows
from vpl_plugin.experiments.table3.settings import Table3Settings
from vpl_plugin.localization.ground_truth import check_shows_classes
from vpl_plugin.plots.region_plot import check_tsne, save_region_plot
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.examples import Example, list_examples
from vpl_plugin.segmentation.training import train_decoder

__all__ = ["check_table3", "table3"]

logger = logging.getLogger(__name__)


def check_table3(photos: Mapping[str, PhotoSet], settings: Table3Settings) -> None:
    """Refuses what would else be found out after hours.

    Args:
        photos: of "train" and "val".
        settings: of the run.

    Raises:
        ImportError: the regions are to be drawn, and scikit-learn is missing.
        InputError: the val split has no ground truth, or some shows no class.
    """
    if settings.tsne:
        check_tsne()
    if all(item.mask is None for item in photos["val"].photos):
        raise InputError("the val split has no ground truth: say where with --masks")
    for split in photos.values():
        truths = (item.mask for item in split.photos if item.mask)
        check_shows_classes(truths, len(split.names.labels))


def table3(
    model: ClipModel,
    photos: Mapping[str, PhotoSet],
    settings: Table3Settings,
    failures: dict[Path, str],
) -> str:
    """Runs what is not done yet.

    Args:
        model: the encoder.
        photos: of "train" and "val"; :func:`check_table3` has seen them.
        settings: of the run.
        failures: gets the photos that could not be done.

    Returns:
        The table, which is also ``table3.md`` of the output.

    Raises:
        InputError: a folder holds results of other settings, or not one photo could be done.
        MemoryError, FloatingPointError: of the training.
        OSError: a file cannot be written.
    """
    return _Table3(model, photos, settings, failures).run()


class _Table3:
    """The run, and what is measured so far."""

    def __init__(
        self,
        model: ClipModel,
        photos: Mapping[str, PhotoSet],
        settings: Table3Settings,
        failures: dict[Path, str],
    ) -> None:
        self._model, self._photos, self._settings = model, photos, settings
        self._failures = failures
        self._decoders: dict[str, list[Any]] = {"ce": [], "rsc": []}
        self._phase1: Phase1

    def _run_phase1(self) -> Phase1:
        ranks = Ranks(device=str(self._model.device))
        train, val = (
            Run(self._photos[name], self._settings.phase1(name), self._model, self._failures, ranks)
            for name in ("train", "val")
        )
        return run_phase1(train, val, self._settings.supervision.split("/")[0])

    def run(self) -> str:
        """All rows. Returns the table."""
        settings = self._settings
        self._phase1 = self._run_phase1()
        self._write()
        examples = self._examples()
        regions = {}
        for seed in settings.seeds:
            for rsc in (False, True):
                found, of_decoder = self._decoder(examples, seed, rsc=rsc)
                self._decoders["rsc" if rsc else "ce"].append(found)
                if seed == settings.seeds[0]:
                    regions["with RSC" if rsc else "without RSC"] = of_decoder
                self._write()
        if settings.panels:
            shown = self._photos["val"].photos
            shown = shown[:: max(1, len(shown) // settings.panels)][: settings.panels]
            ce, with_rsc = (self._segmentation(settings.seeds[0], rsc=on) for on in (False, True))
            folder = settings.output / "panels"
            save_panels(folder, shown, self._phase1, ce, with_rsc, self._failures)
        if settings.tsne:
            if min(len(found.classes) for found in regions.values()) < 4:
                logger.warning("fewer than 4 regions in the val photos: no t-SNE")
            else:
                labels = self._photos["val"].names.labels
                save_region_plot(settings.output / "regions.png", regions, labels)
        return self._write()

    def _segmentation(self, seed: int, *, rsc: bool) -> Path:
        return self._settings.output / "segmentations" / decoder_name(rsc, seed)

    def _examples(self) -> list[Example]:
        """The train photos that phase 1 could do."""
        photos = self._photos["train"]
        kind, folder = self._settings.supervision.split("/")
        done = [item for item in photos.photos if item.photo not in self._failures]
        examples = list_examples(
            {item.name: item.photo for item in done},
            getattr(self._phase1.train[kind], folder),
            len(photos.names.labels),
            classes={item.name: item.classes for item in done},
        )
        check_shows_classes((item.mask for item in examples), len(photos.names.labels))
        return examples

    def _decoder(
        self, examples: list[Example], seed: int, *, rsc: bool
    ) -> tuple[dict[str, Any], Any]:
        """A decoder trained and measured, or what an earlier run left of it."""
        settings = self._settings
        folder = settings.output / "decoders" / decoder_name(rsc, seed)
        logger.info("decoder %s", folder.name)
        segmenter = train_decoder(
            self._model,
            examples,
            Prototypes.load(self._phase1.prototypes),
            settings.decoder(seed, rsc=rsc),
            folder,
            cache=settings.output / "cache" if settings.cache else None,
            checkpoint_every=settings.checkpoint_every,
            workers=0 if str(self._model.device) == "cpu" else settings.workers,
        )
        return measure_decoder(
            segmenter,
            folder,
            self._segmentation(seed, rsc=rsc),
            self._photos["val"],
            settings.inference,
            self._failures,
            crf=rsc,
            workers=settings.workers,
        )

    def _write(self) -> str:
        """Writes table and figures as far as they are known. Returns the table."""
        settings, training = self._settings, self._settings.training
        figures, decoders = self._phase1.figures, self._decoders
        about = (
            f"{settings.sources['train'].get('dataset')}, {len(self._photos['train'].photos)} train"
            f" and {len(self._photos['val'].photos)} val photos, encoder {self._model.name!r};"
            f" decoders trained for {training.iterations} iterations of {training.batch_size}"
            f" photos on {settings.supervision}."
        )
        of_decoders = (
            [self._segmentation(seed, rsc=rsc) for seed in settings.seeds[: len(decoders[name])]]
            for rsc, name in ((False, "ce"), (True, "rsc"))
        )
        differences = row_differences(self._phase1.val["vision"].scores.parent, *of_decoders)
        text = markdown(figures, decoders, settings.seeds, about, differences)
        result = {
            "settings": dataclasses.asdict(settings),
            "rows": [row._asdict() for row in table_rows(figures, decoders)],
            "differences": {
                told: {step: difference._asdict() for step, difference in steps.items()}
                for told, steps in differences.items()
            },
            "phase1": figures,
            "decoders": {
                name: dict(zip(map(str, settings.seeds), found, strict=False))
                for name, found in decoders.items()
            },
        }
        with whole_file(settings.output / "results.json") as part:
            part.write_text(json.dumps(result, indent=1, default=str) + "\n")
        with whole_file(settings.output / "table3.md") as part:
            part.write_text(text, encoding="utf-8")
        return text
