"""How the gain of vision prototypes grows with the photos they are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_es import DEFAULT_ANCHOR
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.experiments.ablation.measured import Measured
from vpl_plugin.experiments.ablation.settings import TEXT, Setting
from vpl_plugin.localization.bootstrap import mean_iou, paired_difference, percent, points

__all__ = ["curve_settings", "drawn_photos", "markdown", "save_figure"]

# Draws of few photos differ more than draws of many. All photos are drawn once, of which other
# pixels are drawn.
DRAWS = {5: 6, 10: 6, 20: 4, 60: 3, 200: 2}
DRAWS_OF_ALL = 3
ANCHORS = (0.0, DEFAULT_ANCHOR)


class Point(NamedTuple):
    """One size of the data, over its draws; mIoU of refined seeds in [0, 1].

    Attributes:
        photos: how many photos were learned from.
        text: text prototypes on each draw's photos.
        by_anchor: for each of ANCHORS the draws' mIoUs.
    """

    photos: int
    text: list[float]
    by_anchor: list[list[float]]


def curve_settings(train_photos: int) -> list[Setting]:
    """All settings of the curve on a train split of so many photos."""
    return [
        setting
        for size in _sizes(train_photos)
        for anchor in ANCHORS
        for setting in _draws(size, train_photos, anchor)
    ]


def drawn_photos(setting: Setting, train_photos: int) -> list[int]:
    """The train photos that a setting is learned from, by number, rising."""
    if setting.photos is None:
        return list(range(train_photos))
    generator = torch.Generator().manual_seed(setting.draw)
    return sorted(torch.randperm(train_photos, generator=generator)[: setting.photos].tolist())


def markdown(train_photos: int, measured: Measured) -> str:
    """The curve as tables; sizes that are not measured yet are left out."""
    prior = f"lambda = {ANCHORS[1]:g}"
    lines = [
        "### Photos learned from",
        "",
        "Refined seeds: mean (worst) of the draws, how many draws fall below text prototypes, and",
        "differences of the means with 95 % intervals over photos.",
        "",
        f"| on val | draws | text | no prior | below | to text | {prior} | below | to text"
        " | to no prior |",
        f"|{'---|' * 10}",
    ]
    sizes = _sizes(train_photos)
    for size in sizes:
        point = _point(size, train_photos, "val", measured)
        if point is not None:
            text, *sides = _on_val(size, train_photos, measured)
            none, anchored = (
                [*cells, points(paired_difference(side, text))]
                for cells, side in zip(_cells(point), sides, strict=True)
            )
            gain = points(paired_difference(sides[1], sides[0]))
            lines.append(_line(point, [*none, *anchored, gain]))
    lines += [
        "",
        f"| on the photos learned from | draws | text | no prior | below | {prior} | below |",
        f"|{'---|' * 7}",
    ]
    for size in sizes:
        point = _point(size, train_photos, "learned", measured)
        if point is not None:
            none, anchored = _cells(point)
            lines.append(_line(point, [*none, *anchored]))
    return "\n".join([*lines, ""])


def save_figure(path: Path, train_photos: int, measured: Measured) -> None:
    """Writes one PNG: mIoU against the number of photos, on val and on those learned from.

    Args:
        path: of the PNG.
        train_photos: of the train split.
        measured: what was measured; sizes not measured yet are left out.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), dpi=120, layout="constrained")
    for axis, (split, title) in zip(
        figure.subplots(1, 2),
        (("val", "photos of val, never learned from"), ("learned", "the photos learned from")),
        strict=True,
    ):
        every = [_point(size, train_photos, split, measured) for size in _sizes(train_photos)]
        known = [point for point in every if point is not None]
        sizes = [point.photos for point in known]
        text = [100 * _mean(point.text) for point in known]
        axis.plot(sizes, text, color="0.35", linestyle="--", label="text prototypes")
        for index, (name, colour) in enumerate(
            (("vision, no prior", "tab:orange"), ("vision, prior", "tab:blue"))
        ):
            draws = [point.by_anchor[index] for point in known]
            axis.plot(
                sizes,
                [100 * _mean(mious) for mious in draws],
                color=colour,
                marker="o",
                markersize=4,
                label=f"{name} (mean of the draws)",
            )
            axis.fill_between(
                sizes,
                [100 * min(mious) for mious in draws],
                [100 * max(mious) for mious in draws],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="photos learned from", title=title)
        axis.grid(alpha=0.3)
        if split == "val":
            axis.set_ylabel("refined seed mIoU, %")
            axis.legend(fontsize=8)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def _sizes(train_photos: int) -> list[int]:
    return [*(size for size in DRAWS if size < train_photos), train_photos]


def _draws(size: int, train_photos: int, anchor: float) -> list[Setting]:
    if size == train_photos:
        return [Setting(anchor=anchor, seed=seed) for seed in range(DRAWS_OF_ALL)]
    return [Setting(anchor=anchor, photos=size, draw=draw) for draw in range(DRAWS[size])]


def _point(size: int, train_photos: int, split: str, measured: Measured) -> Point | None:
    by_anchor = [_draws(size, train_photos, anchor) for anchor in ANCHORS]
    if any(measured.row(setting) is None for setting in (TEXT, *by_anchor[0], *by_anchor[1])):
        return None
    of_text = measured.counts(TEXT, "val" if split == "val" else "train", "refined")
    # All train photos are measured as the split "train".
    split = "train" if split == "learned" and size == train_photos else split
    return Point(
        size,
        [
            _miou(of_text if split == "val" else of_text[drawn_photos(each, train_photos)])
            for each in by_anchor[0]
        ],
        [[_miou(measured.counts(each, split, "refined")) for each in draws] for draws in by_anchor],
    )


def _on_val(size: int, train_photos: int, measured: Measured) -> list[Tensor]:
    """(photos, 3, C) of text prototypes, then (draws, photos, 3, C) for each of ANCHORS."""
    return [
        measured.counts(TEXT, "val", "refined"),
        *(
            torch.stack(
                [
                    measured.counts(each, "val", "refined")
                    for each in _draws(size, train_photos, anchor)
                ]
            )
            for anchor in ANCHORS
        ),
    ]


def _cells(point: Point) -> list[list[str]]:
    """For each of ANCHORS: mean (worst), and how many draws are below text prototypes."""
    return [
        [
            f"{percent(_mean(mious))} ({percent(min(mious))})",
            str(sum(miou < text for miou, text in zip(mious, point.text, strict=True))),
        ]
        for mious in point.by_anchor
    ]


def _line(point: Point, cells: Sequence[str]) -> str:
    first = [f"{point.photos} photos", str(len(point.text)), percent(_mean(point.text))]
    return f"| {' | '.join([*first, *cells])} |"


def _miou(counts: Tensor) -> float:
    return float(mean_iou(counts.sum(dim=0)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
