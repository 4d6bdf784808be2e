"""A command's output folder: results of different settings never mix in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpl_plugin.atomic_files import whole_file

__all__ = ["claim_folder", "settings_of"]

RUN = "run.json"


def claim_folder(folder: Path, settings: Mapping[str, Any], *, alone: bool = True) -> None:
    """Makes the folder, or checks that what lies there was made with the same settings.

    What a killed process left half-written is removed; whole files are never touched. A folder
    without results, as a run that failed at its settings leaves it, takes other settings.

    Args:
        folder: of the command or stage.
        settings: all that its files depend on; anything JSON can hold.
        alone: no other process writes there now. Otherwise nothing is removed: half-written files
            may be those of another machine.

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
    # Looked for before run.json is read: a process that claims the folder at this moment writes
    # its results after it.
    has_results = any(path != file and path.is_file() for path in folder.rglob("*"))
    if file.exists():
        stored = _read(file)
        differing = sorted(
            key for key in {*settings, *stored} if settings.get(key) != stored.get(key)
        )
        if not differing:
            return
        if has_results:
            shown = ", ".join(
                f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}" for key in differing
            )
            raise ValueError(
                f"{folder} holds the results of other settings ({shown}):"
                " choose another --output, or delete that folder"
            )
    with whole_file(file) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n")


def settings_of(folder: Path, stage: str) -> dict[str, Any]:
    """What made the files of an earlier stage.

    Raises:
        FileNotFoundError: that stage has not been run.
    """
    file = folder / RUN
    if not file.exists():
        raise FileNotFoundError(f"{folder} has no results yet: run the stage {stage!r} first")
    return _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is broken ({error}): delete the folder {file.parent}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{file} is broken (no settings): delete the folder {file.parent}")
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
