"""Jobs in worker processes."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from vpl_plugin.adapters.worker_pool import run_jobs


def test_results_and_errors_come_back_with_their_jobs() -> None:
    found = {}
    for job, result in run_jobs(int, ["1", "x", "3"], workers=2):
        try:
            found[job] = result()
        except ValueError as error:
            found[job] = str(error)
    assert found == {"1": 1, "x": "invalid literal for int() with base 10: 'x'", "3": 3}


def test_a_killed_worker_is_told() -> None:
    with (
        closing(run_jobs(os._exit, [1, 1, 1], workers=2)) as jobs,
        pytest.raises(ChildProcessError, match="take fewer workers"),
    ):
        [result() for _, result in jobs]
