"""Pictures of Table 3's rows, photo by photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.datasets import SetPhoto
from vpl_plugin.clip import open_photo
from vpl_plugin.errors import InputError
from vpl_plugin.experiments.table3.decoders import mask_of
from vpl_plugin.experiments.table3.phase1 import Phase1
from vpl_plugin.localization import cams_to_labels, read_mask, resize_cams
from vpl_plugin.plots.panels import save_panel
from vpl_plugin.results import Results

__all__ = ["save_panels"]


def save_panels(
    folder: Path,
    photos: Sequence[SetPhoto],
    phase1: Phase1,
    ce: Path,
    rsc: Path,
    failures: dict[Path, str],
) -> None:
    """Writes a picture per photo: the truth and rows I to VI side by side.

    Args:
        folder: for the pictures, named after the photos.
        photos: to show.
        phase1: where rows I-III lie.
        ce: folder of row IV's label maps.
        rsc: folder of those of rows V and VI.
        failures: gets the photos that cannot be shown.

    Raises:
        OSError: a file cannot be written.
    """
    for item in tqdm(photos, desc="panels", unit="photo"):
        path = folder / f"{item.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            masks = [("truth", read_mask(item.mask))] if item.mask else []
            masks += [
                (title, _seed_labels(phase1, kind, item))
                for title, kind in (("I text seeds", "text"), ("II vision seeds", "vision"))
            ]
            masks += [
                (title, read_mask(file))
                for title, file in (
                    ("III pseudo-mask", phase1.val["vision"].labels / f"{item.name}.png"),
                    ("IV CE", mask_of(ce, "free", item)),
                    ("V CE + RSC", mask_of(rsc, "free", item)),
                    ("VI V + CRF", mask_of(rsc, "crf", item)),
                )
            ]
            save_panel(path, open_photo(item.photo), [], masks)
        except (FileNotFoundError, InputError) as error:
            failures.setdefault(item.photo, f"not shown: {error}")


def _seed_labels(phase1: Phase1, kind: str, item: SetPhoto) -> np.ndarray:
    """The labels that the refined CAMs were scored with."""
    cams = read_cams(Results(phase1.val[kind].cams).file(item.name))
    power = phase1.figures["val"][kind]["refined"]["power"]
    maps = resize_cams(cams.refined, cams.size)
    return cams_to_labels(maps, cams.classes, power).byte().cpu().numpy()
