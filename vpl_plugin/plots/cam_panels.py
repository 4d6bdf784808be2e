"""Pictures of what the stages wrote: text beside vision prototypes, photo by photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import StoredCAMs, read_cams
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import read_mask
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.plots.panels import PanelRow, save_panel
from vpl_plugin.results import Results, digest, made_from

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vpl_plugin.adapters.clip_es.settings import Settings
    from vpl_plugin.adapters.photos.photo_set import SetPhoto

__all__ = ["save_cam_panels"]


def save_cam_panels(
    folder: Path,
    photos: Sequence[SetPhoto],
    labels: Sequence[str],
    kinds: Mapping[str, Settings],
    failures: dict[Path, str],
) -> None:
    """Writes a panel for each photo whose panel is not there yet.

    Args:
        folder: for the panels, named after the photos.
        photos: to show.
        labels: names of the classes.
        kinds: settings of the stages' runs with "text" and "vision" prototypes, or one of them.
        failures: gets the photos that cannot be shown.

    Raises:
        FileNotFoundError: there are no CAMs.
        OSError: a file cannot be written.
    """
    kinds = {name: kind for name, kind in kinds.items() if kind.cams.exists()}
    if not kinds:
        raise FileNotFoundError(f"there are no CAMs beside {folder}: run the stage 'cams'")
    panels = Results(folder)
    for item in tqdm(photos, desc="panels", unit="photo"):
        inputs = digest(
            item.mask,
            *(
                (name, made_from(_cams(kind, item)), made_from(_mask(kind, item)))
                for name, kind in kinds.items()
            ),
        )
        if panels.is_made(item.name, inputs, ".png"):
            continue
        try:
            _save(panels.new_file(item.name, ".png"), item, labels, kinds, inputs)
        except (FileNotFoundError, InputError) as error:
            failures.setdefault(item.photo, f"not shown: {error}")


def _cams(kind: Settings, item: SetPhoto) -> Path:
    return Results(kind.cams).file(item.name)


def _mask(kind: Settings, item: SetPhoto) -> Path:
    return Results(kind.masks).file(item.name, ".png")


def _save(
    path: Path,
    item: SetPhoto,
    labels: Sequence[str],
    kinds: Mapping[str, Settings],
    inputs: str,
) -> None:
    held = {name: read_cams(_cams(kind, item)) for name, kind in kinds.items()}
    masks: list[tuple[str, np.ndarray]] = []
    if item.mask is not None:
        masks.append(("true mask", read_mask(item.mask)))
    for name, kind in kinds.items():
        file = _mask(kind, item)
        if file.exists():
            masks.append((f"{name} pseudo-mask", read_mask(file)))
    rows = [
        PanelRow(labels[index], index + 1, _map(held, "text", index), _map(held, "vision", index))
        for index in item.classes
    ]
    save_panel(path, open_photo(item.photo), rows, masks, made_from=inputs)


def _map(held: dict[str, StoredCAMs], kind: str, index: int) -> Tensor | None:
    if kind not in held:
        return None
    cams = held[kind]
    return resize_cams(cams.refined, cams.size)[cams.classes.index(index)]
