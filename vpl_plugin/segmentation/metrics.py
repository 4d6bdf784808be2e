"""The course of a training, as CSV files and, where it is installed, in TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpl_plugin.atomic_files import whole_file

__all__ = ["MetricsLog"]


class MetricsLog:
    """Rows of numbers by iteration, one CSV file a kind; a resumed training goes on in them.

    Args:
        folder: holds ``KIND.csv`` and the folder ``tensorboard``.
        start: the iteration from which the training goes on. What was noted after it, before the
            training was killed, is dropped.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._folder = folder
        for file in folder.glob("*.csv"):
            _keep_until(file, start)
        self._board = _tensorboard(folder / "tensorboard", start)

    def write(self, kind: str, iteration: int, values: Mapping[str, float]) -> None:
        """Append a row: the number of iterations done, and the values."""
        file = self._folder / f"{kind}.csv"
        row = {"iteration": iteration, **values}
        new = not file.exists()
        with file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, iteration)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def _keep_until(file: Path, iteration: int) -> None:
    with file.open(newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    # The last row of a killed process may be cut off.
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= iteration]
    if len(kept) < len(rows):
        with whole_file(file) as part, part.open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *kept])


def _tensorboard(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
