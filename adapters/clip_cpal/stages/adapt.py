"""Stage ``adapt``: support bank -> context prototypes; then the self-supervised step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.alignment import align_features
from vpl_plugin.adapters.clip_cpal.context import Context, write_context
from vpl_plugin.adapters.clip_cpal.self_supervision import Example, adapt_prototypes
from vpl_plugin.adapters.clip_cpal.settings import CPALSettings
from vpl_plugin.adapters.clip_cpal.stages.bank import (
    ContextStage,
    StoredInstances,
    read_instances,
)
from vpl_plugin.adapters.clip_cpal.support_bank import SupportBank
from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.stages.cams import chosen_prototypes
from vpl_plugin.adapters.clip_es.stages.inputs import is_made, note_photos, stage_inputs
from vpl_plugin.adapters.held import Held
from vpl_plugin.adapters.pipeline.run import Estimate, Run
from vpl_plugin.results import Results

__all__ = ["Adapt", "Examples", "HeldInstances"]

logger = logging.getLogger(__name__)

# All of VOC's train_aug at 128 pixels a photo fits in here.
HELD_BYTES = 2 * 1024**3


class HeldInstances(Held[StoredInstances]):
    """What the bank was offered of the photos, read once where it fits in memory.

    Args:
        files: of the stage ``bank``.
        held_bytes: the most memory that is kept; what is beyond it is read anew each time.
    """

    def __init__(self, files: Sequence[Path], *, held_bytes: int = HELD_BYTES) -> None:
        super().__init__(len(files), held_bytes)
        self._files = files

    def make(self, index: int) -> StoredInstances:
        """Of one photo."""
        return read_instances(self._files[index])

    def size(self, index: int, item: StoredInstances) -> int:
        """Its bytes."""
        return sum(array.nbytes for array in item)


class Examples(Held[Example]):
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
        super().__init__(len(instances), 0)
        self._instances, self._context = instances, context
        self._alignment, self._top_k = alignment, top_k

    def make(self, index: int) -> Example:
        """Of one photo."""
        stored = self._instances[index]
        classes = tuple(stored.classes.tolist())
        instances, mean, features = (
            torch.from_numpy(array).float().to(self._context.mean.device)
            for array in (stored.instances, stored.photo_mean, stored.features)
        )
        targets = self._context.maps(
            features, mean, classes, instances, alignment=self._alignment, top_k=self._top_k
        )
        features, mean = map(torch.from_numpy, (stored.features, stored.photo_mean))
        return Example(features, mean, classes, targets)

    def size(self, index: int, item: Example) -> float:
        """Nothing beside what is held of the photo, of which the targets are a small part."""
        return 0 if self._instances.holds(index) else math.inf


class Adapt(ContextStage):
    """Context prototypes by k-means, and CPAL's self-supervised step on CLIP-ES's prototypes."""

    name = "adapt"

    def run(self, run: Run[CPALSettings]) -> None:
        """Clusters the bank and trains the prototypes, unless both are there.

        Memory holds the bank and, as far as they fit in :data:`HELD_BYTES`, the photos; the first
        process does all of it.
        """
        settings = run.settings
        bank = Results(settings.bank)
        facts = {
            "bank": bank.settings("bank"),
            **settings.facts("seed", "capacity", "clusters", "top_k", "alignment"),
            **settings.facts("epochs", "consistency"),
        }
        inputs = stage_inputs(
            run.photos, settings.bank, bank.file, "instance prototypes", run.failures
        )
        Results.claim(settings.adapted, facts, alone=run.ranks.alone)
        made_from_it = [settings.cams, settings.upstream_cams, settings.masks, settings.labels]
        if is_made(settings.prototypes_file, inputs, made_from_it, run.failures) or run.ranks.rank:
            return
        files = list(inputs.values())
        start = chosen_prototypes(run)
        names = [file.relative_to(settings.bank).as_posix() for file in files]
        instances = HeldInstances(files)
        note_photos(settings.prototypes_file, inputs)
        context = _context(names, instances, settings, start.num_foreground)
        write_context(settings.context_file, context)
        examples = Examples(
            instances,
            context.to(start.rows.device),
            alignment=settings.alignment,
            top_k=settings.top_k,
        )
        made = adapt_prototypes(
            examples,
            replace(start, temperature=start.temperature or 1 / run.encoder.logit_scale),
            weight=settings.consistency,
            epochs=settings.epochs,
            seed=settings.seed,
            progress=True,
        )
        about = {
            "kind": "text" if start.temperature is None else "vision",
            "model": run.encoder.name,
            **run.photos.names.texts(),
            **facts,
            "photos": len(files),
            "classification": made.classification,
            "consistency_loss": made.consistency,
        }
        # GradCAM takes the temperature that the prototypes started with.
        trained = replace(made.prototypes, temperature=start.temperature, about=about)
        trained.save(settings.prototypes_file)
        logger.info(
            "%d context prototypes of %d photos; classification and L1 loss by epoch: %s",
            int(context.counts.sum()),
            len(files),
            ", ".join(
                f"{a:.3f} {b:.3f}"
                for a, b in zip(made.classification, made.consistency, strict=True)
            )
            or "no training",
        )

    def estimate(self, run: Run[CPALSettings], costs: Costs) -> Estimate:
        """All photos, unless the prototypes are there; seconds to minutes."""
        settings, names = run.settings, run.photos.names
        count = 0 if settings.prototypes_file.exists() else len(run.photos.photos)
        size = len(names.labels) * (settings.clusters + 1) * run.encoder.embed_dim * 4
        return Estimate(self.name, count, size, None)


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
