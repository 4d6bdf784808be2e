"""How a command ends: errors in one line, photos that failed, exit codes."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vpl_plugin.errors import InputError

__all__ = ["exit_code", "reported"]

logger = logging.getLogger(__name__)


def exit_code(program: str, work: Callable[[], int]) -> int:
    """Runs a command.

    Args:
        program: what messages call it.
        work: returns 0 when all went well, 1 when a photo could not be done.

    Returns:
        What ``work`` returns; 1 where the memory is full or a figure is not finite, 2 for bad
        input or a full disk.
    """
    try:
        return work()
    except (MemoryError, FloatingPointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except (InputError, OSError, ImportError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                "the disk is full. What was written is whole and stays: make room and run the same"
                " command again"
            )
        print(f"{program}: {message}", file=sys.stderr)
        return 2


@contextmanager
def reported(failures: Mapping[Path, str], what: str = "failed") -> Iterator[None]:
    """Lists the photos that failed, however the block ends.

    Args:
        failures: why, by photo; filled in the block.
        what: is said of them.
    """
    try:
        yield
    finally:
        for path, why in failures.items():
            logger.error("%s: %s: %s", what, path, why)
