"""Jobs in worker processes that share the cores and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

__all__ = ["WorkerPool", "run_jobs"]

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerPool:
    """Processes that share the cores, started with the first job and kept until the block ends.

    Args:
        workers: processes, each with one thread of PyTorch.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._started: dict[Callable[[Any], Any], dict[Any, Future[Any]]] = {}
        # Spawned, as a fork of a process with threads and a GPU is not safe.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, work: Callable[[Job], Result], job: Job) -> None:
        """Starts a job, which can be hashed, of those that :meth:`run` gets next for this work."""
        self._started.setdefault(work, {})[job] = self._submit(work, job)

    def has_started(self, work: Callable[[Any], Any]) -> bool:
        """Whether :meth:`start` was called for this work since the last :meth:`run`."""
        return work in self._started

    def run(
        self, work: Callable[[Job], Result], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Callable[[], Result]]]:
        """What :func:`run_jobs` does, in these processes."""
        started = self._started.pop(work, {})
        waiting: dict[Future[Result], Job] = {}
        try:
            for job in jobs:
                future = started.pop(job, None) if started else None
                waiting[future or self._submit(work, job)] = job
                # What is done is given back at once, waited for where enough is under way.
                full = len(waiting) >= 4 * self.workers
                done, _ = wait(waiting, None if full else 0, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), partial(_result, future)) for future in done)
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), partial(_result, future)) for future in done)
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, work: Callable[[Job], Result], job: Job) -> Future[Result]:
        with _killed_worker_told():
            return self._pool.submit(work, job)


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    pool: WorkerPool | None = None,
) -> Iterator[tuple[Job, Callable[[], Result]]]:
    """Does the jobs, in processes if there are to be several.

    Args:
        work: a module's function; what it takes and returns can be pickled.
        jobs: in the order in which they start. They are asked for as workers become free, so
            that making the next ones and working on the last ones go on at the same time.
        workers: processes, each with one thread of PyTorch; 1 works in this process. Where the
            jobs are known to be fewer, there is one for each.
        pool: whose processes to take in their place; None starts some for these jobs alone.

    Yields:
        Each job as it ends, with a function that returns its result or raises its error. Only a
        few jobs, four for each process, wait in memory at a time.

    Raises:
        ChildProcessError: a process was killed; a job's function may raise it as well.

    Example:
        >>> [(job, result()) for job, result in run_jobs(abs, [-2, 3], workers=1)]
        [(-2, 2), (3, 3)]
    """
    if isinstance(jobs, Sized):
        workers = min(workers, len(jobs))
    if pool is not None and (workers > 1 or pool.has_started(work)):
        yield from pool.run(work, jobs)
    elif workers <= 1:
        yield from ((job, partial(work, job)) for job in jobs)
    else:
        with WorkerPool(workers) as own:
            yield from own.run(work, jobs)


def _result(future: Future[Result]) -> Result:
    with _killed_worker_told():
        return future.result()


@contextmanager
def _killed_worker_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, as happens where memory runs out: take fewer workers."
            " What was done stays"
        ) from error


def _start_worker() -> None:
    # The processes share the cores among themselves.
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent takes its workers with it, which would else wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
