"""What a run of CLIP-CPAL is asked for beyond CLIP-ES's settings, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vpl_plugin.adapters.clip_cpal import constants
from vpl_plugin.adapters.clip_es.settings import PROTOTYPES, Settings
from vpl_plugin.adapters.pipeline.options import option

__all__ = ["CPALSettings"]


@dataclass(frozen=True)
class CPALSettings(Settings):
    """The settings of all stages; see :mod:`~vpl_plugin.adapters.clip_cpal.constants`.

    Attributes:
        context: folder "adapted" of an earlier run, whose context and prototypes are used as they
            are; by default they are made from this run's photos.
        capacity: instance prototypes that the bank holds of each class.
        clusters: context prototypes of a class.
        top_k: soft positives of an instance.
        alignment: share of the way to the bank's features, in [0, 1].
        epochs: of the self-supervised step; 0 leaves it out.
        consistency: weight of its L1 term.
        blend: share of the prototype-aware CAM, in [0, 1].
    """

    context: Path | None = option(None, group="context prototypes")
    capacity: int = constants.CAPACITY
    clusters: int = constants.CLUSTERS
    top_k: int = constants.TOP_K
    alignment: float = constants.ALIGNMENT
    epochs: int = constants.EPOCHS
    consistency: float = constants.CONSISTENCY_WEIGHT
    blend: float = constants.BLEND

    def __post_init__(self) -> None:
        from vpl_plugin.checks import check_count, check_fraction, check_not_negative

        super().__post_init__()
        for name in ("capacity", "clusters", "top_k"):
            check_count(name, getattr(self, name))
        for name in ("alignment", "blend"):
            check_fraction(name, getattr(self, name))
        for name in ("epochs", "consistency"):
            check_not_negative(name, getattr(self, name))

    @property
    def learns(self) -> bool:
        """Not where the context of an earlier run brings its prototypes."""
        return self.context is None and super().learns

    @property
    def given(self) -> tuple[Path, ...]:
        """Files of an earlier run that all stages together take."""
        return (self.prototypes_file, self.context_file) if self.context else super().given

    @property
    def bank(self) -> Path:
        """Folder of the photos' instance prototypes."""
        return self.kind / "bank"

    @property
    def adapted(self) -> Path:
        """Folder of the context prototypes and the trained prototypes."""
        return self.context or self.kind / "adapted"

    @property
    def context_file(self) -> Path:
        """The context prototypes."""
        return self.adapted / "context.safetensors"

    @property
    def prototypes_file(self) -> Path:
        """The prototypes that the CAMs are made from: the trained ones."""
        return self.adapted / PROTOTYPES
