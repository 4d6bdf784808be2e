"""What a stage that makes one thing of all photos is made from.

It lists the photos beside its result, each with its digest. When a photo changes, such as its
labels, the result is made anew. When a photo is mended that was left out, the result stays: all
that was made from it would have to go with it, and that is for the user to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.results import made_from

__all__ = ["is_made", "note_photos", "stage_inputs"]

PHOTOS = "photos.txt"


def stage_inputs(
    photos: PhotoSet,
    folder: Path,
    file_of: Callable[[str], Path],
    what: str,
    failures: dict[Path, str],
) -> dict[str, Path]:
    """The files of a set's photos.

    Args:
        photos: the set.
        folder: of the earlier stage.
        file_of: the file of a photo's name, below ``folder``.
        what: the files hold, for messages.
        failures: gets the photos without a file.

    Returns:
        The photos' names and their files, in the set's order.

    Raises:
        FileNotFoundError: there is not one.
    """
    files = {}
    for item in photos.photos:
        file = file_of(item.name)
        if file.exists():
            files[item.name] = file
        else:
            failures.setdefault(item.photo, f"it has no {what} at {file}")
    if not files:
        raise FileNotFoundError(f"{folder} has no {what} of any photo of this split")
    return files


def note_photos(result: Path, inputs: Mapping[str, Path]) -> None:
    """Writes beside a stage's result the photos it is about to be made from, one per line.

    A result of other inputs goes first: a process killed from here on leaves none.
    """
    result.unlink(missing_ok=True)
    with whole_file(result.with_name(PHOTOS)) as part:
        lines = (f"{made_from(file)} {name}\n" for name, file in inputs.items())
        part.write_text("".join(lines), encoding="utf-8")


def is_made(
    result: Path,
    inputs: Mapping[str, Path],
    made_from_it: Sequence[Path],
    failures: dict[Path, str],
) -> bool:
    """Whether a stage's result is there and fits the photos at hand.

    Args:
        result: the file that the stage writes last.
        inputs: the photos at hand, and their files.
        made_from_it: folders of later stages, for the message.
        failures: gets a result of only some of these photos, as after one was mended.

    Raises:
        FileNotFoundError: the result is there, and what :func:`note_photos` wrote is not.
        ValueError: it was made from a photo that is not at hand.
    """
    if not result.exists():
        return False
    lines = result.with_name(PHOTOS).read_text(encoding="utf-8").split("\n")[:-1]
    held = {name: found for found, _, name in (line.partition(" ") for line in lines)}
    gone = sorted(held.keys() - inputs.keys())
    if gone:
        raise InputError(
            f"{result} was made from {len(gone)} photo(s) that are not at hand now, such as"
            f" {gone[0]}: choose another --output, or delete {result.parent}"
        )
    if any(made_from(inputs[name]) != found for name, found in held.items()):
        return False
    if len(held) < len(inputs):
        folders = ", ".join(str(folder) for folder in (result.parent, *made_from_it))
        failures[result] = (
            f"it was made from {len(held)} of now {len(inputs)} photos and is kept; to make it anew"
            f" from all of them, delete {folders} and run the command again"
        )
    return True
