"""``vpl-clip-es``: the CLIP-ES pipeline with vision prototypes, stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vpl_plugin.cli.pipeline import run_adapter

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; with ``--upstream PATH`` CLIP-ES's own code from a checkout instead.

    Returns:
        0 when all went well, 1 when a photo could not be done, 2 for bad input or a full disk.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(word.split("=")[0] == "--upstream" for word in argv):
        from vpl_plugin.cli import clip_es_upstream

        return clip_es_upstream.main(argv)
    return run_adapter("clip_es", "vpl-clip-es", argv)


if __name__ == "__main__":
    sys.exit(main())
