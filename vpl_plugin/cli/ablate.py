"""``vpl ablate``: the paper's ablations (Tables 4-7) and ours, on photos with masks."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es import (
    EncodedPhoto,
    PhotoCAMs,
    encode_photo,
    mask_on_grid,
    photo_cams,
    seed_scores,
)
from vpl_plugin.adapters.datasets import SetPhoto, voc_photos
from vpl_plugin.adapters.held import Held
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.cli import learning_curve
from vpl_plugin.cli.ablation_tables import DEFAULT, TABLES, TEXT, Setting, markdown
from vpl_plugin.cli.model_options import add_model_arguments, load_model
from vpl_plugin.clip import VOC, ClipModel, class_prototypes, open_photo
from vpl_plugin.clip.templates import TEMPLATES
from vpl_plugin.core.gap import modify_gap
from vpl_plugin.core.prototypes import PrototypeFit, fit_vision_prototypes
from vpl_plugin.core.targets.text import text_distribution
from vpl_plugin.errors import InputError
from vpl_plugin.localization import read_mask, seed_targets
from vpl_plugin.localization.ground_truth import read_truth
from vpl_plugin.prototypes import Prototypes

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

NUM_FOREGROUND = len(VOC.labels)
CURVE = "photos"

# Settings that fit_vision_prototypes takes under the same names.
FIT_OPTIONS = (
    *("anchor", "solver", "lr", "constraint"),
    *("iterations", "tolerance", "regularization"),
)
# Of encoded photos with their masks; a photo of VOC's takes 6 MB with ViT-B/16.
HELD_BYTES = 8 * 1024**3
Pair = tuple[EncodedPhoto, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser, _: Sequence[str] = ()) -> None:
    """The options of ``vpl ablate``."""
    parser.add_argument("root", type=Path, help="folder with JPEGImages and SegmentationClass")
    parser.add_argument(
        "--train",
        default="train",
        help="split that prototypes are learned on: a file, or the name of a list in"
        " ImageSets/Segmentation (default: train)",
    )
    parser.add_argument(
        "--val", default="val", help="split that is scored beside it (default: val)"
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_ablation"), help="folder to write")
    add_model_arguments(parser)
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=sorted([*TABLES, CURVE]),
        default=[*TABLES, CURVE],
        help=f"which tables; {CURVE} also draws {CURVE}.png, mIoU by the number of photos",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs every setting once, resumes, writes and prints the tables. Returns the exit code."""
    failures: dict[Path, str] = {}
    splits: dict[str, list[SetPhoto]] = {}
    for name in ("train", "val"):
        split = getattr(arguments, name)
        listed = voc_photos(arguments.root, split, labels="masks", masks="SegmentationClass")
        failures |= listed.failures
        splits[name] = _readable(listed.photos, failures)
        if not splits[name]:
            why = listed._replace(failures=listed.failures | failures).why_empty()
            raise InputError(f"{split} has no photo with a mask that shows a class: {why}")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments)
    context = {
        "model": model.fingerprint(),
        **{name: _digest(photos) for name, photos in splits.items()},
    }
    results = _Results(output, context)
    train_photos = len(splits["train"])
    tables = {name: table.rows for name, table in TABLES.items()}
    tables[CURVE] = (TEXT, *learning_curve.curve_settings(train_photos))
    # Every difference is one to the text prototypes or to the default.
    settings = [
        *dict.fromkeys([TEXT, DEFAULT, *(row for name in arguments.tables for row in tables[name])])
    ]
    missing = [setting for setting in settings if results.row(setting) is None]
    logger.info("%d settings, %d of them done before", len(settings), len(settings) - len(missing))
    if missing:
        bench = _Bench(model, splits)
        for setting in tqdm(missing, desc="settings", unit="setting"):
            results.add(setting, *bench.run(setting))
            _write_tables(output, arguments.tables, results, train_photos)
    sys.stdout.write(_write_tables(output, arguments.tables, results, train_photos))
    if CURVE in arguments.tables:
        learning_curve.save_figure(output / f"{CURVE}.png", train_photos, results)
    logger.info("Look at %s", (output / "tables.md").resolve())
    for path, why in failures.items():
        logger.error("left out: %s: %s", path, why)
    return 1 if failures else 0


def _readable(photos: Sequence[SetPhoto], failures: dict[Path, str]) -> list[SetPhoto]:
    """The photos that can be read, with masks that fit; others are left out of every setting."""
    readable = []
    for item in tqdm(photos, desc="read", unit="photo", leave=False):
        assert item.mask is not None, "voc_photos gives every photo a mask"
        try:
            photo = open_photo(item.photo)
            read_truth(item.mask, NUM_FOREGROUND, (photo.height, photo.width))
        # BrokenPhotoError is an InputError.
        except (InputError, FileNotFoundError) as error:
            failures[item.photo] = str(error)
        else:
            readable.append(item)
    return readable


def _digest(photos: Sequence[SetPhoto]) -> str:
    names = "\n".join(item.name for item in photos)
    return f"{len(photos)} photos, {hashlib.sha256(names.encode()).hexdigest()[:12]}"


class _Results:
    """What was measured so far, on disk after every setting."""

    def __init__(self, folder: Path, context: dict[str, Any]) -> None:
        self._path = path = folder / "results.json"
        self._counts = folder / "counts"
        self._context = context
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["context"] != context:
                raise InputError(
                    f"{path} holds results of another run ({stored['context']}, this one is"
                    f" {context}): choose another --output"
                )
            self._rows = stored["rows"]

    def row(self, setting: Setting) -> dict[str, Any] | None:
        return self._rows.get(setting.key)

    def counts(self, setting: Setting, split: str, kind: str) -> Tensor:
        with np.load(self._counts_file(setting), allow_pickle=False) as held:
            return torch.from_numpy(held[f"{split}_{kind}"])

    def _counts_file(self, setting: Setting) -> Path:
        return self._counts / f"{hashlib.sha256(setting.key.encode()).hexdigest()[:16]}.npz"

    def add(self, setting: Setting, row: dict[str, Any], counts: dict[str, Tensor]) -> None:
        """Keeps the figures of a setting, and the counts of its photos."""
        self._counts.mkdir(exist_ok=True)
        with whole_file(self._counts_file(setting)) as part:
            arrays: dict[str, Any] = {
                name: each.to(torch.int32).numpy() for name, each in counts.items()
            }
            np.savez_compressed(part, **arrays)
        self._rows[setting.key] = row
        with whole_file(self._path) as part:
            part.write_text(json.dumps({"context": self._context, "rows": self._rows}, indent=1))


def _write_tables(output: Path, names: Sequence[str], results: _Results, photos: int) -> str:
    text = "\n".join(
        learning_curve.markdown(photos, results)
        if name == CURVE
        else markdown(TABLES[name], results)
        for name in names
    )
    with whole_file(output / "tables.md") as part:
        part.write_text(text)
    return text


class EncodedPhotos(Held[Pair]):
    """Photos through the encoder, with their masks.

    Those that fit are kept, on the CPU; the others pass through the encoder for every setting.
    """

    def __init__(self, model: ClipModel, photos: Sequence[SetPhoto], held_bytes: float) -> None:
        super().__init__(len(photos), held_bytes)
        self._model, self._photos = model, photos

    def make(self, index: int) -> Pair:
        """One photo, on the CPU."""
        item = self._photos[index]
        assert item.mask is not None, "voc_photos gives every photo a mask"
        photo = encode_photo(self._model, open_photo(item.photo), item.classes, name=item.name)
        return photo.to("cpu"), read_mask(item.mask)

    def size(self, index: int, item: Pair) -> int:
        """Its bytes."""
        photo, mask = item
        tensors = (photo.tokens.tokens, photo.tokens.attention, photo.attention, photo.features)
        return sum(tensor.nbytes for tensor in tensors) + mask.nbytes

    def on_device(self, indices: Iterable[int]) -> Iterator[Pair]:
        """Some of the photos, one after the other on the model's device."""
        for index in indices:
            photo, mask = self[index]
            yield photo.to(self._model.device), mask


class _Bench:
    """Encoded photos, and what several settings share on them."""

    def __init__(self, model: ClipModel, splits: dict[str, list[SetPhoto]]) -> None:
        self._model = model
        total = sum(map(len, splits.values()))
        self._photos = {
            name: EncodedPhotos(model, photos, HELD_BYTES * len(photos) / total)
            for name, photos in splits.items()
        }
        self._text: dict[str, Prototypes] = {}
        self._cams: dict[tuple[str, str], PhotoCAMs] = {}

    def run(self, setting: Setting) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Prototypes of a setting, their scores on both splits, and the counts of the photos."""
        text = self._text_prototypes(setting.templates)
        started = time.perf_counter()
        learned: dict[str, Any] = {}
        if setting.prototypes == "text":
            rows = text.rows
        elif setting.prototypes == "modified gap":
            features, _ = self._pixels(setting, text, targets=False)
            rows = modify_gap(features, text.rows, setting.shift).prototypes
        else:
            fit = self._fit(setting, text)
            rows = fit.prototypes
            learned = {
                "loss": float(fit.losses[-1]),
                "passes": fit.passes,
                "stop_reason": fit.stop_reason,
            }
        learned["seconds"] = time.perf_counter() - started
        prototypes = Prototypes(rows, VOC.labels, setting.gradcam_temperature)
        # The curve asks for the photos learned from alone.
        learned_from = "train" if setting.photos is None else "learned"
        val = self._photos["val"]
        scored = {
            learned_from: (self._photos["train"], self._drawn(setting)),
            "val": (val, range(len(val))),
        }
        scores, counts = {}, {}
        for name, (photos, indices) in scored.items():
            shown = tqdm(indices, desc=f"score {name}", unit="photo", leave=False)
            found = seed_scores(self._model, photos.on_device(shown), prototypes)._asdict()
            for kind in ("raw", "refined"):
                counts[f"{name}_{kind}"] = found.pop(f"{kind}_counts")
            scores[name] = found
        return {"setting": dataclasses.asdict(setting), **learned, "scores": scores}, counts

    def _drawn(self, setting: Setting) -> list[int]:
        return learning_curve.drawn_photos(setting, len(self._photos["train"]))

    def _text_prototypes(self, templates: str) -> Prototypes:
        if templates not in self._text:
            names = dataclasses.replace(VOC, templates=TEMPLATES[templates])
            self._text[templates] = class_prototypes(self._model, names)
        return self._text[templates]

    def _fit(self, setting: Setting, text: Prototypes) -> PrototypeFit:
        features, targets = self._pixels(setting, text)
        return fit_vision_prototypes(
            features,
            text.rows,
            setting.tau_I,
            targets=targets,
            **{name: getattr(setting, name) for name in FIT_OPTIONS},
        )

    def _pixels(
        self, setting: Setting, text: Prototypes, *, targets: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Features drawn from the train photos, and their targets."""
        generator = torch.Generator().manual_seed(setting.seed)
        features, rows = [], []
        indices = tqdm(self._drawn(setting), desc="pixels", unit="photo", leave=False)
        for photo, mask in self._photos["train"].on_device(indices):
            drawn = torch.randperm(len(photo.features), generator=generator)
            drawn = drawn[: setting.pixels_per_photo].to(photo.features.device)
            features.append(photo.features[drawn])
            if targets:
                rows.append(self._targets(setting, photo, mask, text)[drawn])
        return torch.cat(features), torch.cat(rows) if targets else None

    def _targets(
        self, setting: Setting, photo: EncodedPhoto, mask: np.ndarray, text: Prototypes
    ) -> Tensor:
        Z = text.rows
        if setting.targets == "Eq. 5":
            return text_distribution(photo.features, Z)
        if setting.targets == "Eq. 5, present classes":
            allowed = torch.arange(len(Z), device=Z.device) >= NUM_FOREGROUND
            allowed[list(photo.classes)] = True
            return text_distribution(
                photo.features, Z, label_masks=allowed.expand(len(photo.features), -1)
            )
        if setting.targets == "true masks":
            labels = mask_on_grid(mask, photo.tokens.grid).to(Z.device)
            cams = torch.stack([labels == index + 1 for index in photo.classes]).float()
            cams = cams.unflatten(1, photo.tokens.grid)
        else:
            both = self._text_cams(setting.templates, photo, text)
            cams = both.refined if setting.targets == "refined seeds" else both.raw
        return seed_targets(cams, photo.classes, photo.features, text, threshold=setting.threshold)

    def _text_cams(self, templates: str, photo: EncodedPhoto, text: Prototypes) -> PhotoCAMs:
        """Made once: they are small."""
        key = (templates, photo.name)
        if key not in self._cams:
            self._cams[key] = photo_cams(self._model, photo, text)
        return self._cams[key]
