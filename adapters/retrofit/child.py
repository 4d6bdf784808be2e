"""The process of its own in which a method's code runs.

The code's modules shadow installed packages there; :func:`vpl_plugin.adapters.retrofit.retrofit`
starts one for each pass.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.retrofit.imports import import_from
from vpl_plugin.adapters.retrofit.job import Job
from vpl_plugin.adapters.retrofit.passes import Pass
from vpl_plugin.atomic_files import whole_file

__all__ = ["main", "run_pass"]


def run_pass(job: Job, learns: bool) -> list[str]:
    """Runs a recipe once.

    Args:
        job: what to do; its inputs have been checked.
        learns: with the method's own text prototypes, to learn from; else with the prototypes.

    Returns:
        The names of all photos, in the order of the method's list.

    Raises:
        UpstreamError: upstream's code failed.
    """
    recipe = RECIPES[job.recipe]()
    shutil.rmtree(job.unfinished, ignore_errors=True)
    job.unfinished.mkdir(parents=True)
    try:
        import_from(Path(job.checkout), job.unfinished, recipe.unused)
        with cpu_for_missing_cuda(), torch.enable_grad():
            return recipe.run(Pass(job, recipe.outputs, learns))
    finally:
        shutil.rmtree(job.unfinished, ignore_errors=True)


def main() -> int:
    """The process: a job in JSON, which pass, and a file for its result are the arguments."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    told, learns, result_file = json.loads(sys.argv[1]), sys.argv[2] == "learn", sys.argv[3]
    job = Job(**{**told, "flags": tuple(told["flags"])})
    try:
        result: dict[str, Any] = {"photos": run_pass(job, learns)}
    except Exception as error:
        # The caller reports it; the traceback is for whoever has changed the checkout.
        if job.traceback:
            traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    with whole_file(result_file) as part:
        part.write_text(json.dumps(result))
    return 0 if "photos" in result else 1


if __name__ == "__main__":
    sys.exit(main())
