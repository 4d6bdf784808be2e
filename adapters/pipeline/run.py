"""A pipeline: a tuple of stages, and the run that each of them is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_es.estimate import Costs
    from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto
    from vpl_plugin.clip.model import ClipModel
    from vpl_plugin.worker_pool import WorkerPool

__all__ = ["Adapter", "Estimate", "Run", "Stage", "StageEntry", "run_together"]

SettingsT = TypeVar("SettingsT")
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass
class Run(Generic[SettingsT]):
    """What a stage is given.

    Attributes:
        photos: the set.
        settings: of all stages.
        model: the frozen CLIP model; None where no stage needs it.
        failures: gets what could not be done: the path of a file -> why.
        ranks: this process among those that share the work.
        pool: processes that the stages share; without one, each stage starts its own.
        hand_on: a stage that can calls it with each photo that it has done, and the digest of what
            the photo's result was made from.
    """

    photos: PhotoSet
    settings: SettingsT
    model: ClipModel | None = None
    failures: dict[Path, str] = field(default_factory=dict)
    ranks: Ranks = field(default=Ranks())
    pool: WorkerPool | None = None
    hand_on: Callable[[SetPhoto, str], None] | None = None

    @property
    def encoder(self) -> ClipModel:
        """The model, for a stage that needs it.

        Raises:
            ValueError: the run has none.
        """
        if self.model is None:
            raise InputError("this stage needs the CLIP model: give the Run one")
        return self.model


class Estimate(NamedTuple):
    """What one stage would take.

    Attributes:
        stage: its name.
        photos: how many are left; for a stage that makes one thing of all, how many it reads.
        bytes: about how much disk its new files take.
        seconds: about how long; None where that is little.
    """

    stage: str
    photos: int
    bytes: float
    seconds: float | None

    def __str__(self) -> str:
        """In words.

        >>> print(Estimate("cams", 467, 3.54e6, 2100.0))
        cams: 467 photos, about 3.54 MB, about 35 min
        """
        took = "" if self.seconds is None else f", about {_duration(self.seconds)}"
        return f"{self.stage}: {self.photos} photos, about {_size(self.bytes)}{took}"


class Stage:
    """One step of a pipeline, which leaves its results in a folder of its own.

    Attributes:
        name: on the command line.
        needs_model: whether it runs CLIP's encoder.
        once: it runs in one process alone, when the others have ended.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool] = False
    once: ClassVar[bool] = False

    def is_needed(self, settings: Any) -> bool:
        """Whether "all" includes it."""
        return True

    def run(self, run: Run[Any]) -> str | None:
        """Makes what is not there yet.

        Returns:
            What the command prints, if anything.

        Raises:
            FileNotFoundError: an earlier stage has left nothing.
            ValueError: its folder holds results of other settings.
            OSError: a file cannot be written.
        """
        raise NotImplementedError

    def early_start(self, run: Run[Any]) -> Callable[[SetPhoto, str], None] | None:
        """What the stage before this one calls as ``run.hand_on``.

        It starts the photo's job in ``run.pool``, whose result :meth:`run` waits for. None where
        the whole stage waits for its turn.
        """
        return None

    def estimate(self, run: Run[Any], costs: Costs) -> Estimate:
        """What it would take; writes nothing."""
        raise NotImplementedError


class StageEntry(NamedTuple):
    """A stage as its adapter lists it, before its code is imported.

    Attributes:
        about: what it makes of what, in one line.
        home: "module:class" of the :class:`Stage`.
    """

    about: str
    home: str

    def load(self) -> Stage:
        """The stage."""
        module, _, name = self.home.partition(":")
        return getattr(importlib.import_module(module), name)()


class Adapter:
    """An existing method with vision prototypes in its CAM step.

    Register a subclass under a name, in the file of that name in ``adapters/methods`` or in a
    package of your own that offers it as an entry point of the group ``vpl_plugin.adapters``;
    ``vpl run NAME STAGE ...`` then runs it.

    Attributes:
        description: for --help.
        output: folder that is written by default.
        stages: by name, in their order.
        settings: a dataclass; each of its fields is an option.
    """

    description: ClassVar[str]
    output: ClassVar[str]
    stages: ClassVar[Mapping[str, StageEntry]]
    settings: ClassVar[type[Any]]

    @classmethod
    def needed(cls, settings: Any) -> list[Stage]:
        """The stages that "all" runs."""
        stages = [entry.load() for entry in cls.stages.values()]
        return [stage for stage in stages if stage.is_needed(settings)]


def run_together(stages: Sequence[Stage], run: Run[Any]) -> None:
    """Runs the stages but those that run once; every rank calls it.

    Args:
        stages: in their order; each starts what it can with the results of the one before.
        run: what they are given; its failures are those of all ranks afterwards.

    Raises:
        FileNotFoundError, InputError, OSError: of a stage.
    """
    shared = [stage for stage in stages if not stage.once]
    for stage, following in zip_longest(shared, shared[1:]):
        run.hand_on = following.early_start(run) if following else None
        stage.run(run)
        run.ranks.wait()
    run.ranks.merge(run.failures)


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
