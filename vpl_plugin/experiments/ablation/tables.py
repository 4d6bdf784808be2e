"""The tables of ``vpl ablate`` in Markdown, beside the paper's figures."""

from __future__ import annotations

from vpl_plugin.experiments.ablation.measured import Measured
from vpl_plugin.experiments.ablation.settings import DEFAULT, TEXT, Setting, Table
from vpl_plugin.localization.bootstrap import percent, points

__all__ = ["markdown"]


def markdown(table: Table, measured: Measured) -> str:
    """The table in Markdown; rows without a result yet hold dashes.

    Args:
        table: the settings.
        measured: what was measured so far.

    Returns:
        Heading and table: mIoU in percent; its differences with their 95 % intervals over photos,
        to the text prototypes and to the default.
    """
    lines = [
        f"### {table.title}",
        "",
        "| | val raw | val refined | to text | to the default | train raw | train refined"
        " | to text | gap | loss | passes | paper |",
        f"|{'---|' * 12}",
    ]
    for setting, paper in zip(table.rows, table.paper, strict=True):
        cells = _cells(setting, measured)
        lines.append(f"| {table.label(setting)} | {' | '.join(cells)} | {paper or ''} |")
    return "\n".join([*lines, ""])


def _cells(setting: Setting, measured: Measured) -> list[str]:
    result = measured.row(setting)
    if result is None:
        return ["-"] * 10
    train, val = result["scores"]["train"], result["scores"]["val"]
    loss = f"{result['loss']:.4f}" if "loss" in result else ""
    return [
        percent(val["raw"]),
        percent(val["refined"]),
        _difference(setting, TEXT, "val", measured),
        _difference(setting, DEFAULT, "val", measured),
        percent(train["raw"]),
        percent(train["refined"]),
        _difference(setting, TEXT, "train", measured),
        f"{train['gap']:.3f}",
        loss,
        str(result.get("passes", "")),
    ]


def _difference(setting: Setting, base: Setting, split: str, measured: Measured) -> str:
    if setting == base or measured.row(base) is None:
        return ""
    return points(measured.difference(setting, base, split))
