"""Pictures of what the stages wrote: text beside vision prototypes, photo by photo."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import StoredCAMs, read_cams
from vpl_plugin.adapters.clip_es.stages.cams import cams_file
from vpl_plugin.cli.panels import PanelRow, save_panel
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.localization.mask_files import read_mask
from vpl_plugin.localization.seeds import resize_cams

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vpl_plugin.adapters.clip_es.stages import Settings
    from vpl_plugin.adapters.datasets import PhotoSet, SetPhoto

__all__ = ["run_panels"]


def run_panels(
    photos: PhotoSet, settings: Settings, failures: dict[Path, str], *, count: int
) -> Path:
    """Writes a panel for each of so many photos, spread over the set.

    Args:
        photos: the set.
        settings: of the run; its ``prototypes`` stand beside those of the text.
        failures: gets the photos that cannot be shown.
        count: how many photos.

    Returns:
        The folder of the panels.

    Raises:
        FileNotFoundError: there are no CAMs.
        OSError: a file cannot be written.
    """
    kinds = {"text": dataclasses.replace(settings, prototypes="text")}
    if settings.prototypes != "text":
        kinds["vision"] = settings
    kinds = {name: kind for name, kind in kinds.items() if kind.cams.exists()}
    if not kinds:
        raise FileNotFoundError(f"there are no CAMs in {settings.output}: run the stage 'cams'")
    folder = settings.output / "panels"
    folder.mkdir(exist_ok=True)
    chosen = photos.photos[:: max(1, len(photos.photos) // count)][:count]
    for item in tqdm(chosen, desc="panels", unit="photo"):
        path = folder / f"{item.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _save(path, item, photos.names.labels, kinds)
        except (FileNotFoundError, ValueError) as error:
            failures[item.photo] = f"not shown: {error}"
    return folder


def _save(path: Path, item: SetPhoto, labels: tuple[str, ...], kinds: dict[str, Settings]) -> None:
    held = {name: read_cams(cams_file(kind, item.name)) for name, kind in kinds.items()}
    masks: list[tuple[str, np.ndarray]] = []
    if item.mask is not None:
        masks.append(("true mask", read_mask(item.mask)))
    for name, kind in kinds.items():
        file = kind.masks / f"{item.name}.png"
        if file.exists():
            masks.append((f"{name} pseudo-mask", read_mask(file)))
    rows = [
        PanelRow(labels[index], index + 1, _map(held, "text", index), _map(held, "vision", index))
        for index in item.classes
    ]
    save_panel(path, open_photo(item.photo), rows, masks)


def _map(held: dict[str, StoredCAMs], kind: str, index: int) -> Tensor | None:
    if kind not in held:
        return None
    cams = held[kind]
    return resize_cams(cams.refined, cams.size)[cams.classes.index(index)]
