"""The report to explore of what the stages wrote: text beside vision prototypes, photo by photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import read_cams, read_probabilities
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import read_mask
from vpl_plugin.plots.explorer import (
    ExplorerPhoto,
    PhotoMaps,
    listed_photo,
    photo_data,
    write_photo_script,
    write_report,
)
from vpl_plugin.results import Results, digest, made_from

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_es.settings import Settings
    from vpl_plugin.adapters.photos.photo_set import SetPhoto

__all__ = ["save_cam_explorer"]


def save_cam_explorer(
    page: Path,
    photos: Sequence[SetPhoto],
    labels: Sequence[str],
    kinds: Mapping[str, Settings],
    failures: dict[Path, str],
    title: str,
) -> None:
    """Writes the page, and beside it a script for each photo whose script is not there yet.

    The scripts lie in a folder of the page's name; one photo is in memory at a time.

    Args:
        page: the HTML file.
        photos: to show.
        labels: names of the classes.
        kinds: settings of the stages' runs with "text" and "vision" prototypes, or one of them.
        failures: gets the photos that cannot be shown.
        title: of the page.

    Raises:
        OSError: a file cannot be written.
    """
    scripts = Results(page.with_suffix(""))
    listed = []
    for item in tqdm(photos, desc="report", unit="photo"):
        of_photo = [labels[index] for index in item.classes]
        inputs = digest(
            item.mask,
            of_photo,
            *((name, *map(made_from, _files(kind, item))) for name, kind in kinds.items()),
        )
        if not scripts.is_made(item.name, inputs, ".js"):
            try:
                data = photo_data(_read(item, kinds))
            except (FileNotFoundError, InputError) as error:
                failures.setdefault(item.photo, f"not in the report: {error}")
                continue
            write_photo_script(scripts.new_file(item.name, ".js"), item.name, data, inputs)
        script = scripts.file(item.name, ".js").relative_to(page.parent).as_posix()
        listed.append(listed_photo(item.name, of_photo, script))
    write_report(page, title, listed)


def _files(kind: Settings, item: SetPhoto) -> tuple[Path, Path]:
    """CAMs and mask of a photo."""
    return Results(kind.cams).file(item.name), Results(kind.masks).file(item.name, ".png")


def _read(item: SetPhoto, kinds: Mapping[str, Settings]) -> ExplorerPhoto:
    maps = {}
    for name, kind in kinds.items():
        cams_file, mask_file = _files(kind, item)
        if kind.probabilities is None:
            raise InputError(f"the settings of the {name} prototypes keep no probabilities")
        stored = read_cams(cams_file)
        order = [stored.classes.index(index) for index in item.classes]
        maps[name] = PhotoMaps(
            stored.refined[order],
            read_probabilities(Results(kind.probabilities).file(item.name)),
            read_mask(mask_file) if mask_file.exists() else None,
        )
    truth = None if item.mask is None else read_mask(item.mask)
    classes = [index + 1 for index in item.classes]
    return ExplorerPhoto(open_photo(item.photo), classes, maps, truth)
