"""What an earlier stage left for the photos of a set, for a stage that reads all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpl_plugin.adapters.datasets.photo_set import PhotoSet

__all__ = ["stage_inputs"]


def stage_inputs(
    photos: PhotoSet,
    folder: Path,
    file_of: Callable[[str], Path],
    what: str,
    failures: dict[Path, str],
) -> tuple[list[Path], dict[str, Any]]:
    """The files of a set's photos.

    Args:
        photos: the set.
        folder: of the earlier stage.
        file_of: the file of a photo's name, below ``folder``.
        what: the files hold, for messages.
        failures: gets the photos without a file.

    Returns:
        The files in the set's order, and what identifies them for a run.json.

    Raises:
        FileNotFoundError: there is not one.
    """
    files = []
    for item in photos.photos:
        file = file_of(item.name)
        if file.exists():
            files.append(file)
        else:
            failures.setdefault(item.photo, f"it has no {what} at {file}")
    if not files:
        raise FileNotFoundError(f"{folder} has no {what} of any photo of this split")
    listed = "\n".join(file.relative_to(folder).as_posix() for file in files)
    return files, {
        "photos": len(files),
        "photos_sha256": hashlib.sha256(listed.encode()).hexdigest(),
    }
