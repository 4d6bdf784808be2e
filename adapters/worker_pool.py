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
from typing import TypeVar

import torch

__all__ = ["run_jobs"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Callable[[], Result]]]:
    """Does the jobs, in processes if there are to be several.

    Args:
        work: a module's function; what it takes and returns can be pickled.
        jobs: in the order in which they start. They are asked for as workers become free, so
            that making the next ones and working on the last ones go on at the same time.
        workers: processes, each with one thread of PyTorch; 1 works in this process. Where the
            jobs are known to be fewer, there is one for each.

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
    if workers <= 1:
        yield from ((job, partial(work, job)) for job in jobs)
        return
    # Spawned, as a fork of a process with threads and a GPU is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        waiting: dict[Future[Result], Job] = {}
        try:
            for job in jobs:
                with _killed_worker_told():
                    waiting[pool.submit(work, job)] = job
                # What is done is given back at once, waited for where enough is under way.
                full = len(waiting) >= 4 * workers
                done, _ = wait(waiting, None if full else 0, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), partial(_result, future)) for future in done)
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), partial(_result, future)) for future in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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
