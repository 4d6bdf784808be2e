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
            row: _together([held[folder] for folder in folders], kinds[told])
            for row, (folders, kinds) in sources.items()
        }
        found[told] = {}
        for later, earlier in STEPS:
            first, second = sides[later], sides[earlier]
            if first and second and first[0] == second[0]:
                found[told][f"{later} - {earlier}"] = paired_difference(first[1], second[1])
    return found


def _read(folder: Path) -> PhotoCounts | None:
    file = folder / PHOTO_COUNTS
    return read_photo_counts(file) if file.is_file() else None


def _together(runs: Sequence[PhotoCounts | None], kind: str) -> tuple[list[str], Tensor] | None:
    """The photos' names, sorted, and the counts of all runs; None where one lacks the kind."""
    if not runs or any(run is None or kind not in run.kinds for run in runs):
        return None
    present = [run for run in runs if run is not None]
    names = sorted(present[0].names)
    if any(sorted(run.names) != names for run in present):
        return None
    counts = []
    for run in present:
        order = sorted(range(len(names)), key=run.names.__getitem__)
        counts.append(run.kinds[kind][order])
    return names, torch.stack(counts)
