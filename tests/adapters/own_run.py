"""A method's own run, for tests to compare with: nothing is watched, nothing exchanged.

python own_run.py RECIPE CHECKOUT FOLDER FLAGS... runs the recipe's script in FOLDER, a new one. As in a
retrofit, the CPU stands in for a missing GPU, and empty modules for what is not needed.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import torch

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.retrofit.imports import import_from
from vpl_plugin.adapters.retrofit.script import _link_farm

if __name__ == "__main__":
    name, checkout, folder, *flags = sys.argv[1:]
    recipe, root, run = RECIPES[name](), Path(checkout).resolve(), Path(folder).resolve()
    _link_farm(root, run)
    recipe.prepare(run)
    import_from(root, run, recipe.unused)
    os.environ.update(recipe.environment)
    os.chdir(run)
    own = [flag.format(output=run) for flag in recipe.flags]
    sys.argv = [recipe.script, *flags, *own]
    sys.path.insert(1, str((root / recipe.script).parent))
    with cpu_for_missing_cuda(), torch.enable_grad():
        runpy.run_path(str(root / recipe.script), run_name="__main__")
