"""The folder of a stage or command: a re-run goes on with it, and results never mix in it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError

__all__ = ["MADE_FROM", "Results", "digest", "made_from", "photo_digest"]

RUN = "run.json"
# What a result says it was made from: an array of an .npz, a text of a .png, line 1 of a .js.
MADE_FROM = "made_from"


def digest(*inputs: object) -> str:
    """What identifies the inputs of a result: equal for equal ``repr``.

    Example:
        >>> digest((1, 2), "text") == digest((1, 2), "text") != digest((2, 1), "text")
        True
    """
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def photo_digest(photo: Path, classes: tuple[int, ...] | None, *more: object) -> str:
    """What identifies the inputs of a photo's result: its labels, its file, and what else counts.

    The file goes by its size: hashing it would take as long as reading it.
    """
    return digest(classes, photo.stat().st_size if photo.is_file() else None, *more)


def made_from(path: Path) -> str | None:
    """The digest that a result holds of its inputs; None where it holds none, or is not there."""
    import numpy as np
    from PIL import Image

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return str(held[MADE_FROM])
        if path.suffix == ".js":
            with path.open(encoding="utf-8") as file:
                # A broken file may be one endless line.
                name, _, noted = file.readline(100).removeprefix("// ").strip().partition(" ")
            return noted if name == MADE_FROM else None
        with Image.open(path) as image:
            found = image.info.get(MADE_FROM)
            return None if found is None else str(found)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


class Results:
    """A folder of results, one file or more per photo.

    Two rules keep results apart. The settings of the whole folder stand in its run.json: a run with
    others is refused. What differs from photo to photo, such as its labels, and what changes with
    an earlier stage, such as prototypes, goes into a digest that each result carries: where it is
    another, that result is made anew.

    Args:
        folder: of the command or stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def claim(cls, folder: Path, settings: Mapping[str, Any], *, alone: bool = True) -> Results:
        """Makes the folder, or checks that what lies there was made with the same settings.

        What a killed process left half-written is removed; whole files are never touched. A folder
        without results, as a run that failed at its settings leaves it, takes other settings.

        Args:
            folder: of the command or stage.
            settings: all that its files depend on but for what their digests cover; anything JSON
                can hold.
            alone: no other process writes there now. Otherwise nothing is removed: half-written
                files may be those of another machine.

        Raises:
            ValueError: the folder holds results of other settings, which the message names, or its
                run.json is broken.
        """
        # As JSON gives them back, with lists for tuples.
        settings = json.loads(json.dumps(settings))
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.rglob(".*.part*"):
            if alone and _is_abandoned(part):
                part.unlink(missing_ok=True)
        file = folder / RUN
        # Looked for before run.json is read: a process that claims the folder at this moment
        # writes its results after it.
        has_results = any(path != file and path.is_file() for path in folder.rglob("*"))
        if file.exists():
            stored = _read(file)
            differing = sorted(
                key for key in {*settings, *stored} if settings.get(key) != stored.get(key)
            )
            if not differing:
                return cls(folder)
            if has_results:
                shown = ", ".join(
                    f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}" for key in differing
                )
                raise InputError(
                    f"{folder} holds the results of other settings ({shown}):"
                    " choose another --output, or delete that folder"
                )
        with whole_file(file) as part:
            part.write_text(json.dumps(settings, indent=2) + "\n")
        return cls(folder)

    def settings(self, stage: str) -> dict[str, Any]:
        """What made the files of an earlier stage.

        Raises:
            FileNotFoundError: that stage has not been run.
        """
        file = self.folder / RUN
        if not file.exists():
            raise FileNotFoundError(
                f"{self.folder} has no results yet: run the stage {stage!r} first"
            )
        return _read(file)

    def file(self, name: str, suffix: str = ".npz") -> Path:
        """Where the result of a photo lies."""
        # Not with_suffix: names have dots of their own.
        return self.folder / f"{name}{suffix}"

    def is_made(self, name: str, inputs: str, suffix: str = ".npz") -> bool:
        """Whether the result of a photo is there, and was made from these inputs."""
        return made_from(self.file(name, suffix)) == inputs

    def new_file(self, name: str, suffix: str = ".npz") -> Path:
        """Where the result of a photo goes; its folder is there."""
        path = self.file(name, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _read(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is broken ({error}): delete the folder {file.parent}") from error
    if not isinstance(stored, dict):
        raise InputError(f"{file} is broken (no settings): delete the folder {file.parent}")
    return stored


def _is_abandoned(part: Path) -> bool:
    """Whether the process that wrote under this name is gone."""
    process = part.name.split(".part")[0].rpartition(".")[2]
    if not process.isdecimal() or int(process) == os.getpid():
        return process.isdecimal()
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
