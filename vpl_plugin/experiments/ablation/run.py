"""The paper's ablations (Tables 4-7) and ours: every setting once, in tables."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vpl_plugin.adapters.datasets import SetPhoto, voc_photos
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip import VOC, ClipModel, open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.experiments.ablation import learning_curve
from vpl_plugin.experiments.ablation.bench import Bench
from vpl_plugin.experiments.ablation.measured import Measured
from vpl_plugin.experiments.ablation.settings import DEFAULT, TABLES, TEXT
from vpl_plugin.experiments.ablation.tables import markdown
from vpl_plugin.localization.ground_truth import read_truth

__all__ = ["CURVE", "ablate", "ablation_photos"]

logger = logging.getLogger(__name__)

CURVE = "photos"


def ablation_photos(root: Path, split: str, failures: dict[Path, str]) -> list[SetPhoto]:
    """The photos of a split of VOC's layout that can be read, with masks that fit.

    Args:
        root: folder with JPEGImages and SegmentationClass.
        split: a file, or the name of a list in ImageSets/Segmentation.
        failures: gets the photos that are left out.

    Raises:
        FileNotFoundError: there is no such folder or list.
        InputError: not one photo is left.
    """
    listed = voc_photos(root, split, labels="masks", masks="SegmentationClass")
    failures |= listed.failures
    photos = _readable(listed.photos, failures)
    if not photos:
        why = listed._replace(failures=listed.failures | failures).why_empty()
        raise InputError(f"{split} has no photo with a mask that shows a class: {why}")
    return photos


def ablate(
    model: ClipModel,
    splits: Mapping[str, list[SetPhoto]],
    output: Path,
    names: Collection[str] = (*TABLES, CURVE),
) -> str:
    """Runs the settings that are not done yet; writes and returns the tables.

    Args:
        model: the encoder.
        splits: of :func:`ablation_photos`: "train" to learn from and "val", which is scored too.
        output: folder for ``tables.md``, ``results.json`` and, for the curve, its picture.
        names: of :data:`TABLES`, and :data:`CURVE`.

    Raises:
        InputError: the folder holds results of another model or of other photos.
        OSError: a file cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    digests = {name: _digest(photos) for name, photos in splits.items()}
    measured = Measured(output, {"model": model.fingerprint(), **digests})
    train_photos = len(splits["train"])
    tables = {name: table.rows for name, table in TABLES.items()}
    tables[CURVE] = (TEXT, *learning_curve.curve_settings(train_photos))
    # Every difference is one to the text prototypes or to the default.
    settings = [*dict.fromkeys([TEXT, DEFAULT, *(row for name in names for row in tables[name])])]
    missing = [setting for setting in settings if measured.row(setting) is None]
    logger.info("%d settings, %d of them done before", len(settings), len(settings) - len(missing))
    if missing:
        bench = Bench(model, splits)
        for setting in tqdm(missing, desc="settings", unit="setting"):
            measured.add(setting, *bench.run(setting))
            _write_tables(output, names, measured, train_photos)
    if CURVE in names:
        learning_curve.save_figure(output / f"{CURVE}.png", train_photos, measured)
    logger.info("Look at %s", (output / "tables.md").resolve())
    return _write_tables(output, names, measured, train_photos)


def _readable(photos: Sequence[SetPhoto], failures: dict[Path, str]) -> list[SetPhoto]:
    """The photos that can be read, with masks that fit; others are left out of every setting."""
    readable = []
    for item in tqdm(photos, desc="read", unit="photo", leave=False):
        assert item.mask is not None, "voc_photos gives every photo a mask"
        try:
            photo = open_photo(item.photo)
            read_truth(item.mask, len(VOC.labels), (photo.height, photo.width))
        # BrokenPhotoError is an InputError.
        except (InputError, FileNotFoundError) as error:
            failures[item.photo] = str(error)
        else:
            readable.append(item)
    return readable


def _digest(photos: Sequence[SetPhoto]) -> str:
    names = "\n".join(item.name for item in photos)
    return f"{len(photos)} photos, {hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _write_tables(output: Path, names: Collection[str], measured: Measured, photos: int) -> str:
    text = "\n".join(
        learning_curve.markdown(photos, measured)
        if name == CURVE
        else markdown(TABLES[name], measured)
        for name in names
    )
    with whole_file(output / "tables.md") as part:
        part.write_text(text)
    return text
