"""Runs upstream CLIP-ES's own ``perform``, in as many processes as its flag says."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpl_plugin.adapters.clip_es.upstream.encoder import check_encoder, load_encoder
from vpl_plugin.adapters.clip_es.upstream.pixels import TokenCatcher, seen_photo
from vpl_plugin.adapters.clip_es.upstream.scripts import UpstreamFlags, UpstreamScript
from vpl_plugin.adapters.clip_es.upstream.split import UpstreamSplit, read_split
from vpl_plugin.adapters.retrofit.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.retrofit.imports import check_origin
from vpl_plugin.adapters.retrofit.job import UpstreamError
from vpl_plugin.adapters.retrofit.passes import Pass
from vpl_plugin.adapters.retrofit.places import at_temperature
from vpl_plugin.prototypes import Prototypes

__all__ = ["import_script", "perform_pass"]

logger = logging.getLogger(__name__)

TEMPLATES = ["a clean origami {}."]


def perform_pass(job_pass: Pass, about: UpstreamScript, flags: UpstreamFlags) -> list[str]:
    """Runs ``perform`` on the photos that are not done.

    Args:
        job_pass: which photos are done, what is shown, what is kept.
        about: which of upstream's scripts.
        flags: upstream's own.

    Returns:
        The names of all photos of the split.

    Raises:
        UpstreamError: upstream's code failed on a photo.
    """
    script = import_script(Path(job_pass.job.checkout), about)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Upstream sets this global under __main__ and reads it in zeroshot_classifier.
    script.device = device
    model: Any = load_encoder(flags.model, script.clip, device)
    check_encoder(model)
    prompts = list(getattr(script, about.class_names))
    background_names = list(getattr(script, about.background_names))
    background = script.zeroshot_classifier(background_names, TEMPLATES, model)
    foreground = script.zeroshot_classifier(prompts, TEMPLATES, model)
    # The data set's own labels; upstream's list has what CLIP is given in their place.
    names = about.names.labels if tuple(prompts) == about.names.prompts else tuple(prompts)
    facts = {
        "upstream": f"CLIP-ES, {about.module}.py",
        "prompts": dict(zip(names, prompts, strict=True)),
        "background": background_names,
        "templates": TEMPLATES,
    }
    temperature = job_pass.temperature
    shown = job_pass.shown(Prototypes(torch.cat([foreground, background]), names, about=facts))
    cam = script.GradCAM(
        model=model,
        target_layers=[model.visual.transformer.resblocks[-1].ln_1],
        reshape_transform=script.reshape_transform,
    )
    split = read_split(flags.split_file, about, flags.img_root)
    stems = [name.removesuffix(".jpg") for name in split.photos]
    kept = [index for index, stem in enumerate(stems) if not job_pass.is_done(stem)]
    if len(kept) < len(stems):
        logger.info("%d of %d photos were done before", len(stems) - len(kept), len(stems))
    left = UpstreamSplit(
        [split.photos[index] for index in kept], [split.labels[index] for index in kept]
    )
    if left.photos:
        at = (
            nullcontext()
            if temperature is None
            else at_temperature(model, "logit_scale", temperature)
        )
        with at:
            _perform(job_pass, about, script, flags, left, model, shown, cam)
    return stems


def import_script(checkout: Path, about: UpstreamScript) -> Any:
    """Upstream's script as a module, from the checkout and from nowhere else."""
    check_origin(checkout, (about.module, "clip", "clip_text", "pytorch_grad_cam", "utils"))
    return importlib.import_module(about.module)


def _perform(
    job_pass: Pass,
    about: UpstreamScript,
    script: Any,
    flags: UpstreamFlags,
    split: UpstreamSplit,
    model: Any,
    prototypes: Prototypes,
    cam: Any,
) -> None:
    # Upstream hands its last process what does not divide, so more processes than photos
    # would leave all but one without work.
    workers = min(flags.num_workers, len(split.photos))
    if about.labels_in_split:
        parts, label_parts = script.split_dataset(split.photos, split.labels, n_splits=workers)
    else:
        parts, label_parts = script.split_dataset(split.photos, n_splits=workers), None
    job_pass.folder.mkdir()
    settings = argparse.Namespace(
        **{name: str(value) for name, value in flags._asdict().items()},
        cam_out_dir=str(job_pass.folder),
    )
    settings.num_workers = workers
    arguments = (
        about.module,
        job_pass,
        parts,
        settings,
        model,
        prototypes.background,
        prototypes.foreground,
        cam,
        label_parts,
    )
    if workers == 1:
        _perform_part(0, *arguments)
        return
    try:
        torch.multiprocessing.spawn(_perform_part, nprocs=workers, args=arguments)
    except torch.multiprocessing.ProcessRaisedException as error:
        # Its message is the traceback of that process, which ends with what it raised.
        why = str(error).rstrip().rpartition(f"{UpstreamError.__name__}: ")[2]
        raise UpstreamError(why) from error


def _perform_part(
    process_id: int,
    module: str,
    job_pass: Pass,
    parts: list[list[str]],
    settings: argparse.Namespace,
    model: Any,
    background: Tensor,
    foreground: Tensor,
    cam: Any,
    label_parts: list[list[list[str]]] | None,
) -> None:
    """One process's share, by upstream's ``perform``."""
    script = importlib.import_module(module)
    catcher = TokenCatcher(model) if job_pass.learns else None
    photos = _VisitedPhotos(parts[process_id], job_pass, catcher)
    shares: list[list[str]] = [*parts[:process_id], photos, *parts[process_id + 1 :]]
    more = () if label_parts is None else (label_parts,)
    with cpu_for_missing_cuda(), catcher or nullcontext():
        try:
            script.perform(process_id, shares, settings, model, background, foreground, cam, *more)
        except Exception as error:
            raise UpstreamError(
                f"upstream's perform() failed on {photos.current}: {type(error).__name__}: {error}"
            ) from error
    if photos.current is not None:
        raise UpstreamError(
            f"upstream's perform() stopped at {photos.current}: it found no valid object in it"
        )


class _VisitedPhotos(list[str]):
    """A list of photos that knows when upstream is through with one: it asks for the next."""

    def __init__(self, names: list[str], job_pass: Pass, catcher: TokenCatcher | None) -> None:
        super().__init__(names)
        self.current: str | None = None
        self._pass = job_pass
        self._catcher = catcher

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.current = name
            yield name
            stem = name.removesuffix(".jpg")
            if self._catcher is None:
                self._pass.keep(stem)
            else:
                file = self._pass.folder / f"{stem}.npy"
                self._pass.learn_from(stem, seen_photo(self._catcher.tokens(name), file))
                file.unlink()
            self.current = None
