"""Runs upstream CLIP-ES's own functions, for a process of their own.

Its ``clip`` and ``pytorch_grad_cam`` shadow packages of these names in the process that runs it;
:func:`vpl_plugin.adapters.clip_es.upstream.retrofit` starts one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpl_plugin.adapters.clip_es.learning import learned_prototypes
from vpl_plugin.adapters.clip_es.stages.learn import SeedStream
from vpl_plugin.adapters.clip_es.upstream.checkout import SCRIPTS
from vpl_plugin.adapters.clip_es.upstream.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.clip_es.upstream.encoder import check_encoder, load_encoder
from vpl_plugin.adapters.clip_es.upstream.pixels import SeedCollector
from vpl_plugin.adapters.clip_es.upstream.split import UpstreamSplit, read_split
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.core.prototypes import fit_vision_prototypes
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

__all__ = ["UpstreamJob", "UpstreamPhotoError", "main", "run_job"]

logger = logging.getLogger(__name__)

TEMPLATES = ["a clean origami {}."]


class UpstreamPhotoError(RuntimeError):
    """Upstream's code failed on a photo; the message names it."""


@dataclass(frozen=True)
class UpstreamJob:
    """One retrofit, in words that JSON can hold. All paths are absolute.

    Attributes:
        checkout: the CLIP-ES checkout.
        dataset: "voc12" or "coco14".
        model: what upstream's ``clip.load`` takes, or "mini".
        img_root: folder of photos.
        split_file: upstream's split file.
        cam_out_dir: where upstream's .npy files go.
        num_workers: processes, as upstream's flag.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to learn from in each photo; None takes them all.
        seed: of the draw.
        prototypes: file of prototypes learned before; None learns them.
        traceback: a failure is printed with its traceback.
    """

    checkout: str
    dataset: str
    model: str
    img_root: str
    split_file: str
    cam_out_dir: str
    num_workers: int
    tau_I: float
    anchor: float
    threshold: float
    pixels_per_photo: int | None
    seed: int
    prototypes: str | None
    traceback: bool = False

    @property
    def own_folder(self) -> Path:
        """Where what is not upstream's goes."""
        return Path(self.cam_out_dir) / "vpl"

    @property
    def learned(self) -> Path:
        """Where the prototypes used are kept."""
        return self.own_folder / "prototypes.safetensors"

    @property
    def seeds(self) -> Path:
        """Pixels of the photos that the first pass is through with, until there are prototypes."""
        return self.own_folder / "seeds"

    @property
    def unfinished(self) -> Path:
        """What this folder holds is of no use to another run."""
        return self.own_folder / "unfinished"

    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("checkout", "cam_out_dir", "num_workers", "img_root", "traceback")
        }


def run_job(job: UpstreamJob, *, model: nn.Module | None = None) -> dict[str, Any]:
    """Learns vision prototypes with upstream's encoder, then runs upstream's CAMs with them.

    Args:
        job: what to do; its inputs have been checked.
        model: a model of upstream's interface (``encode_image(image, H, W)``, ``encode_text``,
            ``forward_last_layer``, ``visual``, ``logit_scale``) in the place of ``job.model``.

    Returns:
        What made the prototypes, as their file says it.

    Raises:
        UpstreamPhotoError: upstream's code failed on a photo.
    """
    shutil.rmtree(job.unfinished, ignore_errors=True)
    job.unfinished.mkdir(parents=True)
    try:
        with cpu_for_missing_cuda(), torch.enable_grad():
            return _Retrofit(job, model).run()
    finally:
        shutil.rmtree(job.unfinished, ignore_errors=True)


def main() -> int:
    """The child process: a job in JSON and a file for its result are the arguments."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    job = UpstreamJob(**json.loads(sys.argv[1]))
    try:
        result: dict[str, Any] = {"facts": run_job(job)}
    except Exception as error:
        # The caller reports it; the traceback is for whoever has changed the checkout.
        if job.traceback:
            traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    with whole_file(sys.argv[2]) as part:
        part.write_text(json.dumps(result))
    return 0 if "facts" in result else 1


class _Retrofit:
    """Upstream's script, its model and its text features, and the two passes over the photos."""

    def __init__(self, job: UpstreamJob, model: nn.Module | None) -> None:
        self._job = job
        self._about = SCRIPTS[job.dataset]
        self._script = _import_script(job)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Upstream sets this global under __main__ and reads it in zeroshot_classifier.
        self._script.device = device
        if model is None:
            model = load_encoder(job.model, self._script.clip, device)
        check_encoder(model)
        self._model: Any = model
        self._class_names = list(getattr(self._script, self._about.class_names))
        self._background = list(getattr(self._script, self._about.background_names))

    def run(self) -> dict[str, Any]:
        job, script = self._job, self._script
        background = script.zeroshot_classifier(self._background, TEMPLATES, self._model)
        foreground = script.zeroshot_classifier(self._class_names, TEMPLATES, self._model)
        about = {
            "upstream": f"CLIP-ES, {self._about.module}.py",
            "prompts": dict(zip(self._labels(), self._class_names, strict=True)),
            "background": self._background,
            "templates": TEMPLATES,
        }
        text = Prototypes(torch.cat([foreground, background]), self._labels(), about=about)
        cam = script.GradCAM(
            model=self._model,
            target_layers=[self._model.visual.transformer.resblocks[-1].ln_1],
            reshape_transform=script.reshape_transform,
        )
        prototypes = self._prototypes(text, cam)
        shown = replace(prototypes, rows=prototypes.rows.to(text.rows))
        split = self._split()
        done = {name for name in split.photos if _cam_file(job.cam_out_dir, name).exists()}
        if done:
            logger.info("%d of %d photos were done before", len(done), len(split.photos))
        # None is CLIP's own temperature, which upstream's model has.
        temperature = prototypes.temperature or float(1 / self._model.logit_scale.exp())
        with _logit_scale(self._model, 1 / temperature):
            self._perform(_KeepCAMs(Path(job.cam_out_dir)), shown, cam, skip=done)
        return dict(prototypes.about)

    def _split(self) -> UpstreamSplit:
        return read_split(Path(self._job.split_file), self._about, Path(self._job.img_root))

    def _labels(self) -> tuple[str, ...]:
        """The data set's own labels; upstream's list has what CLIP is given in their place."""
        names, found = self._about.names, tuple(self._class_names)
        return names.labels if found == names.prompts else found

    def _prototypes(self, text: Prototypes, cam: Any) -> Prototypes:
        """Those of ``job.learned``, which is made where it is not there."""
        job = self._job
        if job.learned.exists():
            return Prototypes.load(job.learned)
        if job.prototypes is not None:
            given = Prototypes.load(job.prototypes)
            if given.rows.shape != text.rows.shape:
                raise InputError(
                    f"{job.prototypes} holds prototypes of shape {tuple(given.rows.shape)}; these"
                    f" classes and this model take {tuple(text.rows.shape)}"
                )
            prototypes = replace(given, about={**given.about, "settings": job.settings()})
        else:
            Results.claim(job.seeds, job.settings())
            photos = self._split().photos
            files = [_seeds_file(job.seeds, name) for name in photos]
            done = {name for name, file in zip(photos, files, strict=True) if file.exists()}
            self._perform(_CollectSeeds(job), text, cam, skip=done)
            Z = torch.nn.functional.normalize(text.rows.float(), dim=1)
            stream = SeedStream(files, replace(text, rows=Z))
            fit = fit_vision_prototypes(stream, Z, job.tau_I, anchor=job.anchor)
            facts = {
                "anchor": job.anchor,
                "threshold": job.threshold,
                "settings": job.settings(),
            }
            prototypes = learned_prototypes(text, fit, job.tau_I, facts)
        prototypes.save(job.learned)
        shutil.rmtree(job.seeds, ignore_errors=True)
        return prototypes

    def _perform(
        self,
        visitor: _Visitor,
        prototypes: Prototypes,
        cam: Any,
        skip: set[str] | frozenset[str] = frozenset(),
    ) -> None:
        """Upstream's ``perform`` on every photo of the split, in its own number of processes."""
        split = self._split()
        kept = [i for i, name in enumerate(split.photos) if name not in skip]
        photos = [split.photos[i] for i in kept]
        labels = [split.labels[i] for i in kept]
        if not photos:
            return
        # Upstream hands its last process what does not divide, so more processes than photos
        # would leave all but one without work.
        workers = min(self._job.num_workers, len(photos))
        if self._about.labels_in_split:
            parts, label_parts = self._script.split_dataset(photos, labels, n_splits=workers)
        else:
            parts, label_parts = self._script.split_dataset(photos, n_splits=workers), None
        output = self._job.unfinished / "cams"
        output.mkdir(exist_ok=True)
        settings = argparse.Namespace(
            img_root=self._job.img_root,
            split_file=self._job.split_file,
            cam_out_dir=str(output),
            model=self._job.model,
            num_workers=workers,
        )
        arguments = (
            self._about.module,
            visitor,
            parts,
            settings,
            self._model,
            prototypes.background,
            prototypes.foreground,
            cam,
            label_parts,
        )
        if workers == 1:
            _perform_part(0, *arguments)
        else:
            try:
                torch.multiprocessing.spawn(_perform_part, nprocs=workers, args=arguments)
            except torch.multiprocessing.ProcessRaisedException as error:
                # Its message is the traceback of that process, which ends with what it raised.
                why = str(error).rstrip().rpartition(f"{UpstreamPhotoError.__name__}: ")[2]
                raise UpstreamPhotoError(why) from error


def _perform_part(
    process_id: int,
    module: str,
    visitor: _Visitor,
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
    photos = _VisitedPhotos(parts[process_id], visitor, settings.cam_out_dir)
    shares: list[list[str]] = [*parts[:process_id], photos, *parts[process_id + 1 :]]
    more = () if label_parts is None else (label_parts,)
    with cpu_for_missing_cuda(), visitor.during(model):
        try:
            script.perform(process_id, shares, settings, model, background, foreground, cam, *more)
        except Exception as error:
            raise UpstreamPhotoError(
                f"upstream's perform() failed on {photos.current}: {type(error).__name__}: {error}"
            ) from error
    if photos.current is not None:
        raise UpstreamPhotoError(
            f"upstream's perform() stopped at {photos.current}: it found no valid object in it"
        )


class _Visitor:
    """What happens to the .npy file of each photo."""

    @contextmanager
    def during(self, model: Any) -> Iterator[None]:
        """What must be in place while upstream works."""
        yield

    def take(self, name: str, path: Path) -> None:
        """The file of a photo is complete."""
        raise NotImplementedError


class _KeepCAMs(_Visitor):
    """Puts finished files where the user wants them: a killed run leaves no broken one there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str, path: Path) -> None:
        path.replace(_cam_file(self._folder, name))


class _CollectSeeds(_Visitor):
    """Pixels with seeds from the text CAMs."""

    def __init__(self, job: UpstreamJob) -> None:
        self._folder = job.seeds
        self._collector = SeedCollector(
            threshold=job.threshold, pixels_per_photo=job.pixels_per_photo, seed=job.seed
        )

    @contextmanager
    def during(self, model: Any) -> Iterator[None]:
        with self._collector.watching(model):
            yield

    def take(self, name: str, path: Path) -> None:
        self._collector.take(name, path, _seeds_file(self._folder, name))


class _VisitedPhotos(list[str]):
    """A list of photos that knows when upstream is through with one: it asks for the next."""

    def __init__(self, names: list[str], visitor: _Visitor, folder: str) -> None:
        super().__init__(names)
        self.current: str | None = None
        self._visitor = visitor
        self._folder = folder

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.current = name
            yield name
            self._visitor.take(name, _cam_file(self._folder, name))
            self.current = None


def _seeds_file(folder: Path, photo: str) -> Path:
    return (folder / photo).with_suffix(".npz")


def _cam_file(folder: str | Path, photo: str) -> Path:
    return Path(folder) / photo.replace("jpg", "npy")


@contextmanager
def _logit_scale(model: Any, scale: float) -> Iterator[None]:
    """The softmax of upstream's forward at another temperature."""
    kept = model.logit_scale.detach().clone()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(scale))
    try:
        yield
    finally:
        with torch.no_grad():
            model.logit_scale.copy_(kept)


def _import_script(job: UpstreamJob) -> Any:
    """Upstream's script as a module, from the checkout and from nowhere else."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, job.checkout)
    _provide_pkg_resources(job.unfinished)
    script = importlib.import_module(SCRIPTS[job.dataset].module)
    for name in (SCRIPTS[job.dataset].module, "clip", "clip_text", "pytorch_grad_cam", "utils"):
        origin = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if not origin.resolve().is_relative_to(job.checkout):
            raise ImportError(
                f"{name} must come from the checkout {job.checkout}; this process has it from"
                f" {origin}: run the retrofit in a process of its own"
            )
    return script


def _provide_pkg_resources(folder: Path) -> None:
    """Upstream's clip asks setuptools for ``packaging``, which today's setuptools lacks."""
    try:
        from pkg_resources import packaging  # noqa: F401
    except ImportError:
        sys.modules.pop("pkg_resources", None)
        # A file, as processes that upstream's flag starts must find it as well.
        shim = folder / "setuptools_as_it_was"
        shim.mkdir()
        (shim / "pkg_resources.py").write_text("import packaging\nimport packaging.version\n")
        sys.path.insert(1, str(shim))


if __name__ == "__main__":
    sys.exit(main())
