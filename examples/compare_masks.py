"""Label maps of several runs side by side: which method finds what on the same photographs.

    python examples/compare_masks.py --list val.txt --output compare.png \\
        "true mask=VOC2012/SegmentationClass" "CLIP-ES=es/text/labels" "VPL=es/vision/labels"

Each column is a title and a folder of palette PNGs (NAME.png), such as the folders ``labels`` and
``masks`` that ``vpl-clip-es`` and ``vpl-clip-cpal`` write, or the output of ``vpl segment``. The
rows are photographs of the list at even distances, so that none is picked by hand. Classes are
VOC's; white is unknown. Needs the extra ``demo``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vpl_plugin.clip import VOC
from vpl_plugin.localization import read_mask, voc_palette
from vpl_plugin.localization.mask_files import IGNORE_INDEX

WHITE = (255, 255, 255)


def main(argv: list[str] | None = None) -> int:
    """Runs the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("columns", nargs="+", metavar="TITLE=FOLDER", help="label maps of one run")
    parser.add_argument("--list", type=Path, required=True, help="text file, one name per line")
    parser.add_argument("--count", type=int, default=6, help="photographs (default: 6)")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    arguments = parser.parse_args(argv)
    for column in arguments.columns:
        if not Path(column.partition("=")[2] or "?").is_dir():
            parser.error(f"a column is TITLE=FOLDER with a folder that exists; got {column!r}")
    columns = [column.partition("=")[::2] for column in arguments.columns]
    names = arguments.list.read_text().split()
    names = names[:: max(1, len(names) // arguments.count)][: arguments.count]
    masks = [[read_mask(Path(folder) / f"{name}.png") for _, folder in columns] for name in names]
    draw(masks, names, [title for title, _ in columns]).savefig(arguments.output)
    return 0


def draw(masks: list[list[np.ndarray]], names: list[str], titles: list[str]) -> Figure:
    """A grid of label maps (H, W) uint8: a row per photograph, a column per run."""
    palette = voc_palette()
    palette[IGNORE_INDEX] = WHITE
    size = (1.7 * len(titles), 1.35 * len(names) + 0.5)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    for row, cells in enumerate(figure.subplots(len(names), len(titles), squeeze=False)):
        for axis, mask in zip(cells, masks[row], strict=True):
            axis.imshow(palette[mask])
            axis.set(xticks=[], yticks=[])
        cells[0].set_ylabel(names[row], fontsize=7)
        if row == 0:
            for axis, title in zip(cells, titles, strict=True):
                axis.set_title(title, fontsize=9)
    shown = np.unique(np.concatenate([mask.ravel() for row in masks for mask in row]))
    handles = [
        Patch(color=palette[label] / 255, label=VOC.labels[label - 1])
        for label in shown
        if 0 < label <= len(VOC.labels)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(titles) + 1, fontsize=7)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
