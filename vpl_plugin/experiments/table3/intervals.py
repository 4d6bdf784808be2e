"""How sure the steps from row to row of Table 3 are: paired intervals over the val photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vpl_plugin.localization.bootstrap import Difference, paired_difference
from vpl_plugin.localization.photo_counts import PHOTO_COUNTS, PhotoCounts, read_photo_counts

__all__ = ["STEPS", "row_differences"]

STEPS = (("IV", "III"), ("V", "IV"), ("VI", "V"))
"""The rows that are compared, the later one first."""


def row_differences(
    masks: Path, ce: Sequence[Path], rsc: Sequence[Path]
) -> dict[str, dict[str, Difference]]:
    """The differences of mIoU between rows III to VI, with 95 % intervals.

    Args:
        masks: folder of the evaluated pseudo-masks of the val photos, row III.
        ce: folders of the decoders without RSC, a seed each.
        rsc: folders of those with RSC.

    Returns:
        For "given" (the photos' labels) and "free" (none; row III has them nevertheless) the
        difference of each of :data:`STEPS`, such as "IV - III". A step is left out that is not
        measured yet, or not on the same photos.
    """
    of_masks = {"given": "labels", "free": "labels"}
    sources: dict[str, tuple[Sequence[Path], Mapping[str, str]]] = {
        "III": ([masks], of_masks),
        "IV": (ce, {"given": "given", "free": "free"}),
        "V": (rsc, {"given": "given", "free": "free"}),
        "VI": (rsc, {"given": "crf_given", "free": "crf"}),
    }
    held = {folder: _read(folder) for folder in dict.fromkeys([masks, *ce, *rsc])}
    found: dict[str, dict[str, Difference]] = {}
    for told in ("given", "free"):
        sides = {
            row: _runs([held[folder] for folder in folders], kinds[told])
            for row, (folders, kinds) in sources.items()
        }
        found[told] = {}
        for later, earlier in STEPS:
            if not sides[later] or not sides[earlier]:
                continue
            # In the order of the earlier row, as vpl compare has it.
            order = [*sides[earlier][0]]
            if any(run.keys() != {*order} for run in (*sides[later], *sides[earlier])):
                continue
            first, second = (
                torch.stack([torch.stack([run[name] for name in order]) for run in sides[row]])
                for row in (later, earlier)
            )
            found[told][f"{later} - {earlier}"] = paired_difference(first, second)
    return found


def _read(folder: Path) -> PhotoCounts | None:
    file = folder / PHOTO_COUNTS
    return read_photo_counts(file) if file.is_file() else None


def _runs(held: Sequence[PhotoCounts | None], kind: str) -> list[dict[str, Tensor]]:
    """The counts of each run by photo; nothing where one lacks the kind."""
    runs = [
        dict(zip(run.names, run.kinds[kind], strict=True))
        for run in held
        if run is not None and kind in run.kinds
    ]
    return runs if len(runs) == len(held) else []
