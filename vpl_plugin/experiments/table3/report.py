"""Table 3 in Markdown, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from vpl_plugin.localization.bootstrap import Difference, points

__all__ = ["Row", "markdown", "table_rows"]


class Row(NamedTuple):
    """A row of Table 3. mIoU in [0, 1], one figure per seed.

    Attributes:
        number: the paper's.
        what: in words.
        given: of the val split, with the image-level labels of its photos.
        free: the same without them; rows I-III cannot do without.
        train: of the train split, with labels.
        paper: the paper's figure, in percent.
    """

    number: str
    what: str
    given: tuple[float, ...]
    free: tuple[float, ...]
    train: tuple[float, ...]
    paper: float


def table_rows(phase1: Mapping[str, Any], decoders: Mapping[str, Any]) -> list[Row]:
    """The rows measured so far.

    Args:
        phase1: for "train" and "val" the evaluations of "text" and "vision".
        decoders: for "ce" and "rsc" a list of what ``measure_decoder`` gave, one per seed.
    """

    def seeds(split: str, kind: str) -> tuple[float, ...]:
        found = phase1.get(split, {}).get(kind)
        return (found["refined"]["miou"],) if found else ()

    def masks(split: str) -> tuple[float, ...]:
        found = phase1.get(split, {}).get("vision", {}).get("pseudo_masks")
        return (found["labels"],) if found else ()

    def decoder(name: str, kind: str) -> tuple[float, ...]:
        return tuple(one["scores"][kind]["miou"] for one in decoders.get(name, []))

    return [
        Row("I", "text prototypes: seeds", seeds("val", "text"), (), seeds("train", "text"), 63.3),
        Row(
            *("II", "vision prototypes: seeds", seeds("val", "vision"), ()),
            *(seeds("train", "vision"), 68.2),
        ),
        Row("III", "II + CRF: pseudo-masks", masks("val"), (), masks("train"), 71.3),
        Row("IV", "decoder, CE", decoder("ce", "given"), decoder("ce", "free"), (), 75.5),
        Row("V", "decoder, CE + RSC", decoder("rsc", "given"), decoder("rsc", "free"), (), 77.2),
        Row("VI", "V + CRF", decoder("rsc", "crf_given"), decoder("rsc", "crf"), (), 78.5),
    ]


def markdown(
    phase1: Mapping[str, Any],
    decoders: Mapping[str, Any],
    seeds: Sequence[int],
    about: str,
    differences: Mapping[str, Mapping[str, Difference]] | None = None,
) -> str:
    """The table, whether the rows rise as the paper's do, the errors, RSC on against off.

    Args:
        phase1: as for :func:`table_rows`.
        decoders: the same.
        seeds: of the decoders, in their order.
        about: a line on data and settings.
        differences: of :func:`~vpl_plugin.experiments.table3.intervals.row_differences`.
    """
    rows = table_rows(phase1, decoders)
    lines = [
        "# Table 3",
        "",
        about,
        "",
        "mIoU in percent. Rows I-III need the image-level labels of the photos they are scored on;"
        " IV-VI do not, and stand a second time with the labels given, so that all rows compare."
        + (" Mean and standard deviation over the seeds." if len(seeds) > 1 else ""),
        "",
        "| row | | val | val, labels given | train | paper |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.number} | {row.what} | {_percent(row.free)} | {_percent(row.given)}"
            f" | {_percent(row.train)} | {row.paper} |"
            for row in rows
        ),
        "",
        *(_order(rows, "labels given", "given"), ""),
        *(_order(rows[3:], "no labels", "free"), ""),
        *_differences(differences or {}),
        *_errors(decoders),
        *_rsc(decoders, seeds),
    ]
    return "\n".join(lines) + "\n"


def _percent(values: Sequence[float]) -> str:
    return _mean([100 * value for value in values], 1)


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _order(rows: Sequence[Row], title: str, column: str) -> str:
    """In words: where a row does not exceed the one before it."""
    measured = [(row.number, getattr(row, column)) for row in rows if getattr(row, column)]
    means = [(number, fmean(values)) for number, values in measured]
    shown = f"Rows {means[0][0]}-{means[-1][0]}, {title}" if means else f"Rows, {title}"
    if len(means) < len(rows):
        return f"{shown}: not all measured yet."
    falls = [
        f"{after[0]} lies {100 * (before[1] - after[1]):.1f} points below {before[0]}"
        for before, after in pairwise(means)
        if after[1] <= before[1]
    ]
    if not falls:
        return f"{shown}: each row exceeds the one before it, as in the paper."
    return f"{shown}: not the paper's order: {'; '.join(falls)}."


def _differences(differences: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    steps = dict.fromkeys(step for found in differences.values() for step in found)
    if not steps:
        return []
    cells = {
        step: [
            points(found[step]) if step in found else "-"
            for found in (differences.get("free", {}), differences.get("given", {}))
        ]
        for step in steps
    }
    return [
        "Differences of the means over the seeds in points, with 95 % intervals (paired bootstrap"
        " over the val photos). Row III has the labels in both columns.",
        "",
        "| rows | no labels | labels given |",
        "|---|---|---|",
        *(f"| {step} | {' | '.join(pair)} |" for step, pair in cells.items()),
        "",
    ]


def _errors(decoders: Mapping[str, Any]) -> list[str]:
    """What kinds of errors the decoders make without labels."""
    kinds = ("class_to_background", "background_to_class", "class_to_class")
    lines = []
    for row, name, kind in (("IV", "ce", "free"), ("V", "rsc", "free"), ("VI", "rsc", "crf")):
        found = [one["scores"][kind].get("errors") for one in decoders.get(name, [])]
        if found and all(found):
            cells = (_mean([100 * one[error] for one in found], 2) for error in kinds)
            lines.append(f"| {row} | {' | '.join(cells)} |")
    if not lines:
        return []
    return [
        "## Errors",
        "",
        "Wrong pixels without labels, in percent of all val pixels.",
        "",
        "| row | class to background | background to class | class to class |",
        "|---|---|---|---|",
        *lines,
        "",
    ]


def _rsc(decoders: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """RSC off and on, a row per seed and their mean."""
    pairs = list(zip(decoders.get("ce", []), decoders.get("rsc", []), strict=False))
    if not pairs:
        return []
    columns = [
        _both(pairs, lambda one: 100 * one["scores"]["free"]["miou"]),
        *(
            _both(pairs, lambda one, key=key: (one.get("centred_compactness") or {}).get(key))
            for key in ("intra", "inter", "ratio", "silhouette")
        ),
    ]
    digits = (1, 3, 3, 3, 3)
    lines = [
        "## RSC off and on",
        "",
        "mIoU on val without labels; cosine distances of the val regions' embeddings (true masks),"
        " less their mean, to the centroid of their class (intra, smaller is more compact) and"
        " between centroids (inter, larger is wider apart), their ratio, and the silhouette"
        " (larger is better). Each cell: off / on.",
        "",
        "| seed | mIoU | intra | inter | intra / inter | silhouette |",
        "|---|---|---|---|---|---|",
    ]
    for index, (seed, _) in enumerate(zip(seeds, pairs, strict=False)):
        cells = (
            " / ".join(_mean(side[index : index + 1], places) for side in column)
            for column, places in zip(columns, digits, strict=True)
        )
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    if len(pairs) > 1:
        cells = (
            " / ".join(_mean(side, places) for side in column)
            for column, places in zip(columns, digits, strict=True)
        )
        lines.append(f"| mean | {' | '.join(cells)} |")
        gains = (
            _mean([b - a for a, b in zip(*column, strict=True)], places)
            for column, places in zip(columns, digits, strict=True)
        )
        lines.append(f"| on - off | {' | '.join(gains)} |")
    return lines


def _both(pairs: Sequence[tuple[Any, Any]], figure: Any) -> tuple[list[float], list[float]]:
    """A figure of every pair, off and on; none where one is missing."""
    found = [(figure(off), figure(on)) for off, on in pairs]
    if any(None in pair for pair in found):
        return [], []
    return [pair[0] for pair in found], [pair[1] for pair in found]
