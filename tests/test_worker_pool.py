"""Jobs in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vpl_plugin.worker_pool import WorkerPool, run_jobs


def test_results_and_errors_come_back_with_their_jobs() -> None:
    found = {}
    for job, result in run_jobs(int, ["1", "x", "3"], workers=2):
        try:
            found[job] = result()
        except ValueError as error:
            found[job] = str(error)
    assert found == {"1": 1, "x": "invalid literal for int() with base 10: 'x'", "3": 3}


def test_jobs_are_asked_for_as_they_are_done() -> None:
    """One pool for a stream of jobs, and few of them in memory."""
    asked, given = [], []

    def jobs() -> Iterator[int]:
        for number in range(60):
            asked.append(number)
            yield -number

    for job, result in run_jobs(abs, jobs(), workers=2):
        assert result() == -job
        given.append(-job)
        assert len(asked) - len(given) < 4 * 2 + 1
    assert sorted(given) == asked == [*range(60)]


def test_an_error_of_what_makes_the_jobs_ends_the_pool() -> None:
    def jobs() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(run_jobs(abs, jobs(), workers=2))


def test_a_killed_worker_is_told() -> None:
    with (
        closing(run_jobs(os._exit, [1, 1, 1], workers=2)) as jobs,
        pytest.raises(ChildProcessError, match="take fewer workers"),
    ):
        [result() for _, result in jobs]


def test_a_job_that_was_started_early_is_not_done_again(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    with WorkerPool(2) as pool:
        # Fails where the folder is there.
        pool.start(os.mkdir, first)
        done = {job: result() for job, result in run_jobs(os.mkdir, [first, second], 2, pool)}
        third = str(tmp_path / "third")
        pool.start(os.mkdir, third)
        # One job alone would be done in this process.
        assert [result() for _, result in run_jobs(os.mkdir, [third], 2, pool)] == [None]
        assert [result() for _, result in run_jobs(abs, [-1, -2], 2, pool)] in ([1, 2], [2, 1])
    assert done == {first: None, second: None}
