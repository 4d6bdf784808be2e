"""A method's own run, for tests to compare with: nothing is exchanged, skipped or stopped.

python own_run.py RECIPE CHECKOUT FOLDER FLAGS... runs the recipe's script in FOLDER, a new one. As
in a retrofit, the CPU stands in for a missing GPU, and empty modules for what is not needed.
VPL_OWN_SCRIPT names another script to run in its place.
"""

from __future__ import annotations

import functools
import inspect
import os
import runpy
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.retrofit.imports import import_from
from vpl_plugin.adapters.retrofit.places import replaced
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe
from vpl_plugin.adapters.retrofit.script import _link_farm


def saving(recipe: Recipe, folder: Path) -> ExitStack:
    """What the recipe saves of each photo that the script does not is saved here, too."""
    stack, calls, saved = ExitStack(), {}, set()

    def around(name: str, function: Any) -> Any:
        def called(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            bound = inspect.signature(function).bind(*args, **options)
            calls[name] = Call(bound.arguments, result)
            photo = recipe.seen(calls) if name == [*recipe.watched][-1] else None
            if photo not in (None, *saved):
                saved.add(photo)
                recipe.save(photo, calls, folder)
            return result

        return called

    # CLIP-ES's recipe watches nothing.
    for name, place in getattr(recipe, "watched", {}).items():
        stack.enter_context(replaced(place, functools.partial(around, name)))
    return stack


if __name__ == "__main__":
    name, checkout, folder, *flags = sys.argv[1:]
    recipe, root, run = RECIPES[name](), Path(checkout).resolve(), Path(folder).resolve()
    _link_farm(root, run)
    recipe.prepare(run)
    import_from(root, run, recipe.unused)
    os.environ.update(recipe.environment)
    os.chdir(run)
    script = os.environ.get("VPL_OWN_SCRIPT") or str(root / recipe.script)
    own = [flag.format(output=run) for flag in recipe.flags]
    sys.argv = [recipe.script, *flags, *own]
    sys.path.insert(1, str((root / recipe.script).parent))
    with cpu_for_missing_cuda(), torch.enable_grad(), saving(recipe, run):
        runpy.run_path(script, run_name="__main__")
