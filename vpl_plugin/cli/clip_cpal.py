"""``vpl-clip-cpal``: CLIP-ES with context prototype-aware learning, stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vpl_plugin.cli.pipeline import run_adapter

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    return run_adapter("clip_cpal", "vpl-clip-cpal", argv)


if __name__ == "__main__":
    sys.exit(main())
