"""Stage ``adapt``: support bank -> context prototypes; then the self-supervised step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.alignment import align_features
from vpl_plugin.adapters.clip_cpal.context import Context, write_context
from vpl_plugin.adapters.clip_cpal.self_supervision import Example, adapt_prototypes
from vpl_plugin.adapters.clip_cpal.stages.bank import (
    StoredInstances,
    bank_file,
    read_instances,
    start_prototypes,
)
from vpl_plugin.adapters.clip_cpal.stages.settings import CPALSettings
from vpl_plugin.adapters.clip_cpal.support_bank import SupportBank
from vpl_plugin.adapters.clip_es.stages.inputs import is_made, note_photos, stage_inputs
from vpl_plugin.adapters.datasets.photo_set import PhotoSet
from vpl_plugin.adapters.prototype_files import save_prototypes
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.run_folder import claim_folder, settings_of

__all__ = ["Examples", "HeldInstances", "run_adapt"]

logger = logging.getLogger(__name__)

# All of VOC's train_aug at 128 pixels a photo fits in here.
HELD_BYTES = 2 * 1024**3


class HeldInstances(Sequence[StoredInstances]):
    """What the bank was offered of the photos, read once where it fits in memory.

    Args:
        files: of the stage ``bank``.
        held_bytes: the most memory that is kept; what is beyond it is read anew each time.
    """

    def __init__(self, files: Sequence[Path], *, held_bytes: int = HELD_BYTES) -> None:
        self._files, self._room = files, held_bytes
        self._held: dict[int, StoredInstances] = {}

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> StoredInstances: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredInstances]: ...

    def __getitem__(self, index: int | slice) -> StoredInstances | Sequence[StoredInstances]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index in self._held:
            return self._held[index]
        stored = read_instances(self._files[index])
        size = sum(array.nbytes for array in stored)
        if size <= self._room:
            self._room -= size
            self._held[index] = stored
        return stored

    def holds(self, index: int) -> bool:
        """Whether a photo is in memory to stay."""
        return index in self._held


class Examples(Sequence[Example]):
    """The photos of the self-supervised step.

    The targets of a photo that is held are held as well: nothing of them changes.

    Args:
        instances: of the photos.
        context: what their prototype-aware CAMs are made from, on its device.
        alignment: of the features.
        top_k: soft positives of an instance.
    """

    def __init__(
        self, instances: HeldInstances, context: Context, *, alignment: float, top_k: int
    ) -> None:
        self._instances, self._context = instances, context
        self._alignment, self._top_k = alignment, top_k
        self._targets: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._instances)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        stored = self._instances[index]
        targets = self._targets.get(index)
        if targets is None:
            targets = self._maps(stored)
            if self._instances.holds(index):
                self._targets[index] = targets
        features, mean = map(torch.from_numpy, (stored.features, stored.photo_mean))
        return Example(features, mean, tuple(stored.classes.tolist()), targets)

    def _maps(self, stored: StoredInstances) -> Tensor:
        instances, mean, features = (
            torch.from_numpy(array).float().to(self._context.mean.device)
            for array in (stored.instances, stored.photo_mean, stored.features)
        )
        return self._context.maps(
            features,
            mean,
            tuple(stored.classes.tolist()),
            instances,
            alignment=self._alignment,
            top_k=self._top_k,
        )


def run_adapt(
    model: ClipModel, photos: PhotoSet, settings: CPALSettings, failures: dict[Path, str]
) -> None:
    """Clusters the bank and trains the prototypes, unless both are there.

    Memory holds the bank and, as far as they fit in :data:`HELD_BYTES`, the photos; the first
    process does all of it.

    Args:
        model: the frozen CLIP model; its device computes.
        photos: the set.
        settings: of the run.
        failures: gets the photos without instance prototypes, and results of fewer photos than
            there are.

    Raises:
        FileNotFoundError: there are no instance prototypes at all.
        ValueError: the folder holds results of other settings or photos, or a file is broken.
        OSError: a file cannot be written.
    """
    made_by = settings_of(settings.bank, "bank")
    inputs = stage_inputs(
        photos, settings.bank, partial(bank_file, settings), "instance prototypes", failures
    )
    facts = {
        "bank": made_by,
        "seed": settings.seed,
        "capacity": settings.capacity,
        "clusters": settings.clusters,
        "top_k": settings.top_k,
        "alignment": settings.alignment,
        "epochs": settings.epochs,
        "consistency": settings.consistency,
    }
    claim_folder(settings.adapted, facts, alone=settings.shard[1] == 1)
    made_from_it = [settings.cams, settings.upstream_cams, settings.masks, settings.labels]
    if is_made(settings.prototypes_file, inputs, made_from_it, failures) or settings.shard[0]:
        return
    files = list(inputs.values())
    used = start_prototypes(model, photos, settings)
    num_foreground = len(photos.names.labels)
    names = [file.relative_to(settings.bank).as_posix() for file in files]
    instances = HeldInstances(files)
    context = _context(names, instances, settings, num_foreground)
    write_context(settings.context_file, context)
    temperature = used.temperature or 1 / model.logit_scale
    examples = Examples(
        instances,
        context.to(used.rows.device),
        alignment=settings.alignment,
        top_k=settings.top_k,
    )
    made = adapt_prototypes(
        examples,
        used.rows,
        num_foreground=num_foreground,
        temperature=temperature,
        weight=settings.consistency,
        epochs=settings.epochs,
        seed=settings.seed,
        progress=True,
    )
    about = {
        # GradCAM takes the temperature that the prototypes started with.
        "kind": "text" if used.temperature is None else "vision",
        "model": model.name,
        "classes": photos.names.labels,
        **photos.names.texts(),
        "tau_I": temperature,
        **facts,
        "photos": len(files),
        "classification": made.classification,
        "consistency_loss": made.consistency,
    }
    note_photos(settings.prototypes_file, inputs)
    save_prototypes(settings.prototypes_file, made.prototypes.cpu(), about)
    logger.info(
        "%d context prototypes of %d photos; classification and L1 loss by epoch: %s",
        int(context.counts.sum()),
        len(files),
        ", ".join(
            f"{a:.3f} {b:.3f}" for a, b in zip(made.classification, made.consistency, strict=True)
        )
        or "no training",
    )


def _context(
    names: Sequence[str], photos: HeldInstances, settings: CPALSettings, num_classes: int
) -> Context:
    """Two passes over the photos: the bank's mean first, as alignment takes it."""
    total: np.ndarray = np.zeros(1)
    for stored in photos:
        total = total + stored.photo_mean.astype(np.float64)
    mean = torch.from_numpy(total / len(photos)).float()
    bank = SupportBank(num_classes, settings.capacity, settings.seed)
    for name, stored in zip(names, photos, strict=True):
        instances, photo_mean = map(torch.from_numpy, (stored.instances, stored.photo_mean))
        directions: Tensor = align_features(instances, photo_mean, mean, settings.alignment)
        # An instance that is its whole photo has no direction about the photo's mean.
        real = directions.norm(dim=1) > 0.5
        if real.any():
            bank.add(name, stored.classes[real.numpy()].tolist(), directions[real])
    return Context.of_bank(bank, mean, num_classes, settings.clusters)
