"""Runs a method's own script, with its places watched and its text prototypes exchanged."""

from __future__ import annotations

import functools
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.adapters.retrofit.checkout import commit_of
from vpl_plugin.adapters.retrofit.job import UpstreamError
from vpl_plugin.adapters.retrofit.passes import Pass
from vpl_plugin.adapters.retrofit.places import replaced
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes

__all__ = ["run_script"]


def run_script(recipe: Recipe, job_pass: Pass) -> list[str]:
    """Runs the recipe's script over the photos that are not done, in this process.

    Args:
        recipe: of the method.
        job_pass: which photos are done, what is shown, what is kept.

    Returns:
        The names of all photos of the list.

    Raises:
        UpstreamError: the script failed; the message says at which photo.
        InputError: the checkout or the prototypes are of another shape than the recipe says.
    """
    job, run = job_pass.job, _Run(recipe, job_pass)
    _link_farm(Path(job.checkout), job_pass.folder)
    recipe.prepare(job_pass.folder)
    if not job_pass.learns:
        job_pass.bring_back()
    script = Path(job.checkout) / recipe.script
    flags = [flag.format(output=job_pass.folder) for flag in recipe.flags]
    os.environ.update(recipe.environment)
    os.chdir(job_pass.folder)
    sys.argv = [recipe.script, *job.flags, *flags]
    # As Python itself has it.
    sys.path.insert(1, str(script.parent))
    with run.watching():
        try:
            runpy.run_path(str(script), run_name="__main__")
        except _Through:
            pass
        except InputError:
            raise
        except SystemExit as end:
            if end.code:
                raise UpstreamError(f"{recipe.script} ended with {end.code}") from end
        except Exception as error:
            raise UpstreamError(f"{recipe.script} failed{run.where()}: {_told(error)}") from error
    return run.finished()


class _Through(BaseException):
    """Nothing is left to do: no ``except Exception`` of the script is to stop it."""


class _Run:
    """What happens at the places of one run."""

    def __init__(self, recipe: Recipe, job_pass: Pass) -> None:
        self._recipe = recipe
        self._pass = job_pass
        self._calls: dict[str, Call] = {}
        self._listed: list[str] | None = None
        self._todo: list[str] = []
        self._seen: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """All places of the recipe have what this run puts there."""
        recipe, temperature = self._recipe, self._pass.temperature
        with ExitStack() as stack:
            for name, place in recipe.watched.items():
                stack.enter_context(replaced(place, functools.partial(self._watched, name)))
            stack.enter_context(recipe.photos.passed_through(self._photos))
            stack.enter_context(recipe.text.exchanged(self._exchange))
            if recipe.scale is not None and temperature is not None:
                stack.enter_context(recipe.scale.at(temperature))
            yield

    def where(self) -> str:
        """How far the script has come, for messages."""
        if self._listed is None:
            return " before it had read its list of photos"
        left = [photo for photo in self._todo if photo not in self._seen]
        after = f"after {self._seen[-1]!r}" if self._seen else "at the start"
        return f" {after}" + (f", before it was through with {left[0]!r}" if left else "")

    def finished(self) -> list[str]:
        """The names of all photos; what the script has written is kept."""
        recipe = self._recipe
        if self._listed is None:
            raise UpstreamError(f"{recipe.script} ended without reading its list of photos")
        if self._todo and not self._seen:
            raise UpstreamError(
                f"{recipe.script} ended without {[*recipe.watched.values()][-1]} on any photo"
            )
        if not self._pass.learns:
            self._pass.keep_the_rest()
        return self._listed

    def _photos(self, items: Any) -> Any:
        """The list of photos, without those that are done."""
        names = [self._recipe.photo(item) for item in items]
        kept = [index for index, name in enumerate(names) if not self._pass.is_done(name)]
        self._listed, self._todo = names, [names[index] for index in kept]
        if not kept:
            raise _Through
        return items[kept] if isinstance(items, np.ndarray) else [items[index] for index in kept]

    @torch.no_grad()
    def _exchange(self, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Copies that lie in memory as what was found does: products round alike.
        new = tuple(torch.empty_like(tensor).copy_(tensor) for tensor in found)
        recipe, job = self._recipe, self._pass.job
        classes, background = recipe.rows(*new)
        names = tuple(recipe.class_names(self._calls))
        if len(names) != len(classes):
            raise InputError(
                f"{recipe.title}: the checkout has {len(classes)} rows of classes, the recipe"
                f" {len(names)} names"
            )
        about = {"upstream": recipe.title, "commit": commit_of(Path(job.checkout))}
        text = Prototypes(torch.cat([classes, background]).cpu(), names, about=about)
        shown = self._pass.shown(text)
        classes.copy_(shown.foreground)
        background.copy_(shown.background)
        return new

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature, last = inspect.signature(function), [*self._recipe.watched][-1]

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            arguments = signature.bind(*args, **options)
            arguments.apply_defaults()
            self._calls[name] = Call(arguments.arguments, result)
            if name == last:
                self._photo_seen()
            return result

        return called

    def _photo_seen(self) -> None:
        recipe, seen = self._recipe, self._seen
        photo = recipe.seen(self._calls)
        if photo is None:
            photo = self._todo[len(seen)]
        if photo in seen[-1:]:
            return
        if self._pass.learns:
            with torch.no_grad():
                self._pass.learn_from(photo, recipe.see(self._calls))
        else:
            recipe.save(photo, self._calls, self._pass.folder)
            if seen:
                # The script has gone on, so all that it writes of the one before is there.
                self._pass.keep(seen[-1])
        seen.append(photo)
        if self._pass.learns and len(seen) == len(self._todo):
            raise _Through


def _link_farm(checkout: Path, folder: Path) -> None:
    """A folder to run in, where relative paths find the checkout and write nothing into it."""
    folder.mkdir(parents=True)
    for entry in checkout.iterdir():
        if entry.name != ".git":
            (folder / entry.name).symlink_to(entry)


def _told(error: Exception) -> str:
    """The error in one line; of one in a process that loads data, what it was there."""
    lines = str(error).strip().splitlines() or [""]
    if "Original Traceback" in str(error):
        return lines[-1]
    return f"{type(error).__name__}: {' '.join(' '.join(lines).split())}"
