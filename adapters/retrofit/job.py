"""One retrofit, in words that JSON can hold, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TEXT", "Job", "UpstreamError"]

# In the place of a file of prototypes: the method's own.
TEXT = "text"


class UpstreamError(RuntimeError):
    """Upstream's code did not get through; the message says where."""


@dataclass(frozen=True)
class Job:
    """One retrofit. All paths are absolute.

    Attributes:
        recipe: its name.
        checkout: the checkout.
        output: where the script's files go.
        flags: of the script.
        settings: what decides the results.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to learn from in each photo; None takes them all.
        seed: of the draw.
        prototypes: file of prototypes learned before; "text" are the method's own; None learns.
        traceback: a failure is printed with its traceback.
    """

    recipe: str
    checkout: str
    output: str
    flags: tuple[str, ...]
    settings: dict[str, Any]
    tau_I: float
    anchor: float
    threshold: float
    pixels_per_photo: int | None
    seed: int
    prototypes: str | None
    traceback: bool = False

    @property
    def own_folder(self) -> Path:
        """Where what is not upstream's goes."""
        return Path(self.output) / "vpl"

    @property
    def learned(self) -> Path:
        """Where the prototypes used are kept."""
        return self.own_folder / "prototypes.safetensors"

    @property
    def seeds(self) -> Path:
        """Pixels of the photos that the first pass is through with, until there are prototypes."""
        return self.own_folder / "seeds"

    def seeds_of(self, photo: str) -> Path:
        """The file of one photo in there."""
        return self.seeds / f"{photo}.npz"

    @property
    def text(self) -> Path:
        """The method's text prototypes, beside the seeds that they gave."""
        return self.seeds / "text.safetensors"

    @property
    def unfinished(self) -> Path:
        """What this folder holds is of no use to another run."""
        return self.own_folder / "unfinished"
