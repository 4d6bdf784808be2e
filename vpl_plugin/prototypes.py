"""Class prototypes as one object, in memory and in one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.checks import describe
from vpl_plugin.errors import InputError

__all__ = ["Prototypes", "check_prototypes"]

# The tensor's name in a file, and the key of its header under which the facts stand as JSON.
ROWS = "prototypes"
HEADER = "vpl_prototypes"


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Text or vision prototypes, and all that is needed to use them.

    Attributes:
        rows: (N, D), floating point: the rows of the classes, then those of the background.
        class_names: of the foreground classes, in the order of their rows.
        temperature: of the softmax they are used with; vision prototypes want the tau_I they were
            learned with. None is CLIP's own, right for text prototypes.
        about: what made them; anything JSON can hold.

    Raises:
        TypeError: ``rows`` is no floating-point tensor.
        ValueError: ``rows`` is no matrix, a class is named twice, there are more classes than rows,
            or ``temperature`` is not above 0.

    Example:
        >>> pets = Prototypes(torch.eye(3), ("cat", "dog"), temperature=0.03)
        >>> pets.num_foreground, pets.background.shape
        (2, torch.Size([1, 3]))
    """

    rows: Tensor
    class_names: tuple[str, ...]
    temperature: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Tensor) or not self.rows.is_floating_point():
            got = self.rows.dtype if isinstance(self.rows, Tensor) else type(self.rows).__name__
            raise TypeError(f"rows must be a floating-point tensor (N, D); got {got}")
        if self.rows.ndim != 2:
            raise InputError(f"rows must have shape (N, D); got {tuple(self.rows.shape)}")
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"class_names must be a tuple of names; got {names!r}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"class_names lists {', '.join(twice)} more than once")
        if not 1 <= len(names) <= len(self.rows):
            raise InputError(
                f"class_names must name from 1 to {len(self.rows)} classes, as there are"
                f" {len(self.rows)} rows; got {len(names)}"
            )
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0 and finite; got {self.temperature!r}")

    @property
    def num_foreground(self) -> int:
        """How many of the rows are classes; the others are background."""
        return len(self.class_names)

    @property
    def foreground(self) -> Tensor:
        """(num_foreground, D), the rows of the classes."""
        return self.rows[: self.num_foreground]

    @property
    def background(self) -> Tensor:
        """(N - num_foreground, D), the rows of what surrounds the classes."""
        return self.rows[self.num_foreground :]

    @property
    def digest(self) -> str:
        """What identifies their values: equal for equal rows, classes and temperature."""
        found = hashlib.sha256(repr((self.class_names, self.temperature)).encode())
        found.update(repr((self.rows.dtype, tuple(self.rows.shape))).encode())
        found.update(self.rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Prototypes:
        """The same prototypes on a device."""
        return dataclasses.replace(self, rows=self.rows.to(device))

    def check_classes(self, class_names: Sequence[str], source: object = "prototypes") -> None:
        """Refuses prototypes of other classes, or of the same in another order.

        Args:
            class_names: those that are expected.
            source: what the message calls the prototypes, such as the path of their file.

        Raises:
            ValueError: they differ; the message says where.
        """
        if self.class_names == tuple(class_names):
            return
        missing = sorted({*class_names} - {*self.class_names})
        extra = sorted({*self.class_names} - {*class_names})
        parts = [
            f"{what} {', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("it has", extra))
            if names
        ]
        raise InputError(
            f"{source} holds prototypes of other classes than these:"
            f" {' and '.join(parts) or 'their order differs'}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it into one safetensors file, whole or not at all.

        Args:
            path: ends in .safetensors; its folder must exist.

        Raises:
            ValueError: the path does not end in .safetensors.
            OSError: the file cannot be written; what stood there before is kept.
        """
        from safetensors.torch import save

        path = _checked(path)
        facts = {
            "class_names": self.class_names,
            "temperature": self.temperature,
            "about": dict(self.about),
        }
        rows = self.rows.detach().cpu().contiguous()
        with whole_file(path) as part:
            # Not save_file: it gives a full disk an error of its own, and the file to its owner
            # alone.
            part.write_bytes(save({ROWS: rows}, metadata={HEADER: json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Prototypes:
        """Reads what :meth:`save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is broken, or holds no prototypes.
        """
        from safetensors import SafetensorError, safe_open

        path = _checked(path)
        if not path.is_file():
            raise FileNotFoundError(f"there are no prototypes at {path}")
        try:
            with safe_open(path, "pt") as held:
                names, header = sorted(held.keys()), (held.metadata() or {}).get(HEADER)
                rows = held.get_tensor(ROWS) if ROWS in names else torch.empty(0)
        except SafetensorError as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
        if rows.ndim != 2:
            raise InputError(f"{path} must hold a tensor {ROWS!r} of rank 2; it holds {names}")
        if header is None:
            raise InputError(
                f"{path} does not say which classes its rows are, nor at which temperature they"
                " were learned. Where you know, make it anew:"
                " Prototypes(rows, class_names, temperature).save(path)"
            )
        try:
            facts = json.loads(header)
            return cls(
                rows, tuple(facts["class_names"]), facts["temperature"], facts.get("about", {})
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} has a broken header: {error!r}") from error


def check_prototypes(
    prototypes: object, embed_dim: int | None = None, *, background: bool = True
) -> None:
    """Prototypes of a model's D, where it is given, and with a row of the background."""
    if not isinstance(prototypes, Prototypes):
        raise TypeError(
            f"prototypes must be Prototypes(rows, class_names); got {describe(prototypes)}"
        )
    rows = len(prototypes.rows)
    if background and prototypes.num_foreground == rows:
        raise InputError(
            "num_foreground must leave at least one foreground and one background row of the"
            f" {rows} prototypes: a whole number in [1, {rows - 1}]; got {rows}"
        )
    if embed_dim is not None and prototypes.rows.shape[1] != embed_dim:
        raise InputError(
            f"prototypes must have the model's D = {embed_dim} columns;"
            f" got {describe(prototypes.rows)}"
        )


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path must end in .safetensors; got {str(path)!r}")
    return path
