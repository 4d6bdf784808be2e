"""Runs a setting of ``vpl ablate``: prototypes, CAMs, and their scores."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from vpl_plugin.adapters.datasets import SetPhoto
from vpl_plugin.adapters.held import Held
from vpl_plugin.clip import VOC, ClipModel, class_prototypes, open_photo
from vpl_plugin.clip.templates import TEMPLATES
from vpl_plugin.core.gap import modify_gap
from vpl_plugin.core.prototypes import PrototypeFit, fit_vision_prototypes
from vpl_plugin.core.targets.text import text_distribution
from vpl_plugin.experiments.ablation.learning_curve import drawn_photos
from vpl_plugin.experiments.ablation.settings import Setting
from vpl_plugin.localization import read_mask, seed_targets
from vpl_plugin.prototypes import Prototypes

__all__ = ["Bench", "EncodedPhotos"]

# Settings that fit_vision_prototypes takes under the same names.
FIT_OPTIONS = (
    *("anchor", "solver", "lr", "constraint"),
    *("iterations", "tolerance", "regularization"),
)
# Of encoded photos with their masks; a photo of VOC's takes 6 MB with ViT-B/16.
HELD_BYTES = 8 * 1024**3
Pair = tuple[EncodedPhoto, np.ndarray]


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


class Bench:
    """Encoded photos, and what several settings share on them.

    Args:
        model: the encoder.
        splits: the photos of "train" and "val", each with a mask.
    """

    def __init__(self, model: ClipModel, splits: Mapping[str, list[SetPhoto]]) -> None:
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
        return drawn_photos(setting, len(self._photos["train"]))

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
            allowed = torch.arange(len(Z), device=Z.device) >= len(VOC.labels)
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
