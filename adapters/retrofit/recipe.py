"""What is to be known of a method to retrofit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from vpl_plugin.adapters.retrofit.places import Place, Returned, Scale

if TYPE_CHECKING:
    from vpl_plugin.adapters.retrofit.passes import Pass

__all__ = ["Call", "Recipe", "SeenPhoto", "Shape"]

# Of a file of the checkout: its functions and methods, with their arguments where these matter.
Shape = Mapping[str, Mapping[str, "tuple[str, ...] | None"]]


class Call(NamedTuple):
    """A call of a function of the checkout.

    Attributes:
        arguments: by name, defaults included.
        result: what it returned.
    """

    arguments: Mapping[str, Any]
    result: Any


class SeenPhoto(NamedTuple):
    """What a method computed for a photo with its text prototypes.

    Attributes:
        features: (h * w, D) pixel features, of the space that the prototypes are compared in.
        maps: (K, h, w) in [0, 1], a map for each class.
        classes: (K,) which rows of the prototypes these are.
    """

    features: Tensor
    maps: Tensor
    classes: Sequence[int]


class Recipe:
    """A method whose text prototypes can be exchanged in an unmodified checkout of its code.

    Register a subclass under a name, in the file of that name in ``adapters/recipes`` or in a
    package of your own that offers it as an entry point of the group ``vpl_plugin.recipes``.
    ``vpl retrofit --recipe NAME`` then runs the method's script twice, each time in a process of
    its own: with its text prototypes, and with the vision prototypes that were learned from that.

    Attributes:
        title: the method and what of it is run, for messages.
        commit: the version of the checkout that the recipe was written for.
        script: what is run, a path below the checkout.
        shape: by which a checkout is recognised; other arguments are refused.
        flags: of the script, after the user's own; "{output}" is the folder it is to write to.
        environment: variables that the script reads.
        unused: modules that the checkout imports and what is run here does not need: where they are
            not installed, empty ones stand in.
        text: where the text prototypes come to be.
        labels: names of the classes, in the order of their rows.
        scale: where the temperature of the softmax lies; None where a pixel has none.
        photos: the function that reads the list of photos.
        watched: functions of the checkout by names of your choice. The last is called at least once
            for each photo; when it returns, the photo has been seen.
        outputs: files of a photo, "{photo}" for its name, wildcards allowed. A photo that has them
            all is done.
    """

    title: ClassVar[str]
    commit: ClassVar[str]
    script: ClassVar[str]
    shape: ClassVar[Shape]
    flags: ClassVar[tuple[str, ...]] = ()
    environment: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[tuple[str, ...]] = ()
    text: ClassVar[Place]
    labels: ClassVar[tuple[str, ...]]
    scale: ClassVar[Scale | None] = None
    photos: ClassVar[Returned]
    watched: ClassVar[Mapping[str, str]]
    outputs: ClassVar[tuple[str, ...]]

    def rows(self, *found: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows are classes and which background.

        Args:
            found: the tensors at ``text``.

        Returns:
            The classes (N, D) and the background (M, D), as views of what was found: new rows are
            written into them.
        """
        classes, background = found
        return classes, background

    def class_names(self, calls: Mapping[str, Call]) -> tuple[str, ...]:
        """Names of the classes, in the order of their rows; ``labels``, unless the run says.

        Args:
            calls: of the watched functions, up to when the text prototypes came to be.
        """
        return self.labels

    def photo(self, item: Any) -> str:
        """The name of a photo, from its item in the list that ``photos`` gives."""
        return str(item)

    def seen(self, calls: Mapping[str, Call]) -> str | None:
        """The name of the photo that has been seen; None is the next in the list."""
        return None

    def see(self, calls: Mapping[str, Call]) -> SeenPhoto:
        """What prototypes are learned from.

        Args:
            calls: the latest of each watched function.
        """
        raise NotImplementedError

    def save(self, photo: str, calls: Mapping[str, Call], folder: Path) -> None:
        """Writes what the script computes for a photo and does not keep.

        Args:
            photo: its name.
            calls: the latest of each watched function.
            folder: that the script writes to.
        """

    def check(self, root: Path, flags: Sequence[str]) -> None:
        """Raises what is to be said of the flags before anything runs."""

    def settings(self, root: Path, flags: Sequence[str]) -> dict[str, Any]:
        """What of the flags decides the results, for JSON."""
        return {"script": self.script, "flags": list(flags)}

    def prepare(self, folder: Path) -> None:
        """Makes what the script expects to find in the folder that it runs in."""

    def run(self, job_pass: Pass) -> list[str]:
        """Runs the script once over the photos that are not done.

        Returns:
            The names of all photos of the list.
        """
        from vpl_plugin.adapters.retrofit.script import run_script

        return run_script(self, job_pass)
