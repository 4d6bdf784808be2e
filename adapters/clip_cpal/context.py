"""The context of a data set: what CPAL's CAM step compares the photos with, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_cpal.alignment import align_features
from vpl_plugin.adapters.clip_cpal.clustering import context_prototypes
from vpl_plugin.adapters.clip_cpal.constants import CLUSTERS
from vpl_plugin.adapters.clip_cpal.positives import soft_positives
from vpl_plugin.adapters.clip_cpal.prototype_cams import prototype_aware_cam
from vpl_plugin.adapters.clip_cpal.support_bank import SupportBank
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError

__all__ = ["Context", "read_context", "write_context"]


class Context(NamedTuple):
    """Context prototypes of every class.

    Attributes:
        prototypes: (C, M, D), unit rows; zeros beyond a class's count.
        counts: (C,), how many each class has; 0 where the bank holds none of it.
        mean: (D,), the mean feature of the photos that filled the bank.
    """

    prototypes: Tensor
    counts: Tensor
    mean: Tensor

    @classmethod
    def of_bank(
        cls, bank: SupportBank, mean: Tensor, num_classes: int, clusters: int = CLUSTERS
    ) -> Context:
        """Clusters what the bank holds; the seed is the bank's."""
        prototypes = torch.zeros(num_classes, clusters, len(mean))
        counts = torch.zeros(num_classes, dtype=torch.int64)
        for index in range(num_classes):
            vectors = bank.vectors(index)
            if len(vectors):
                found = context_prototypes(vectors, clusters, seed=bank.seed)
                counts[index] = len(found)
                prototypes[index, : len(found)] = found
        return cls(prototypes, counts, mean)

    def to(self, device: torch.device | str) -> Context:
        """On another device; the counts stay, as they are read one by one."""
        return Context(self.prototypes.to(device), self.counts, self.mean.to(device))

    def maps(
        self,
        features: Tensor,
        photo_mean: Tensor,
        classes: tuple[int, ...],
        instances: Tensor,
        *,
        alignment: float,
        top_k: int,
    ) -> Tensor:
        """The prototype-aware CAMs of a photo, each stretched to [0, 1].

        Args:
            features: (p, D) of its patches, or a sample of them.
            photo_mean: (D,), the mean over all of its patches.
            classes: K indices.
            instances: (K, D), of :func:`instance_prototypes`.
            alignment: of :func:`align_features`.
            top_k: of :func:`soft_positives`.

        Returns:
            (K, p). The map of a class without context is that of the instance itself.
        """
        aligned, anchors = (
            align_features(rows, photo_mean, self.mean, alignment) for rows in (features, instances)
        )
        maps = []
        for index, instance in zip(classes, anchors, strict=True):
            count = int(self.counts[index])
            context = self.prototypes[index, :count] if count else instance[None]
            weights = soft_positives(instance[None], context, top_k)[0]
            maps.append(prototype_aware_cam(aligned, context, weights))
        stacked = torch.stack(maps)
        lowest = stacked.amin(dim=1, keepdim=True)
        return (stacked - lowest) / (stacked.amax(dim=1, keepdim=True) - lowest + 1e-7)


def write_context(path: Path, context: Context) -> None:
    """Writes safetensors, whole or not at all."""
    from safetensors.torch import save

    with whole_file(path) as part:
        part.write_bytes(save({name: t.contiguous() for name, t in context._asdict().items()}))


def read_context(path: Path) -> Context:
    """Reads what :func:`write_context` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or holds no context.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"there are no context prototypes at {path}")
    try:
        tensors = load_file(path)
        return Context(*(tensors[name] for name in Context._fields))
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is no readable file of context prototypes: {error}") from error
