"""The course of a training on disk: what a resumed training goes on with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vpl_plugin.segmentation.metrics import MetricsLog


def write(folder: Path, start: int, losses: dict[int, float]) -> None:
    log = MetricsLog(folder, start)
    for iteration, loss in losses.items():
        log.write("metrics", iteration, {"loss": loss})
    log.close()


def test_rows_after_the_iteration_resumed_from_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, {1: 1.5, 2: 1.0, 3: 0.7})
    with (tmp_path / "metrics.csv").open("a") as stream:
        # A killed process may leave half a row.
        stream.write("4,")
    write(tmp_path, 2, {3: 0.9})
    assert (tmp_path / "metrics.csv").read_text().split() == [
        *("iteration,loss", "1,1.5", "2,1.0", "3,0.9")
    ]


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, {1: 1.5, 2: 1.0, 3: 0.5})
    # TensorBoard reads its files by the second they were made in; a resumed training's is later.
    time.sleep(1.1)
    write(tmp_path, 2, {3: 0.25})
    board = events.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("metrics/loss")]
    assert shown == [(1, 1.5), (2, 1.0), (3, 0.25)]
