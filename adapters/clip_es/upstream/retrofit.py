"""Vision prototypes in an unmodified checkout of upstream CLIP-ES."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR
from vpl_plugin.adapters.clip_es.upstream.checkout import SCRIPTS, check_checkout, check_packages
from vpl_plugin.adapters.clip_es.upstream.runner import UpstreamJob
from vpl_plugin.adapters.clip_es.upstream.split import UpstreamSplit, check_photos, read_split
from vpl_plugin.checks import (
    check_choice,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
)
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes

__all__ = ["Retrofit", "UpstreamError", "retrofit"]


class UpstreamError(RuntimeError):
    """Upstream's code did not get through; the message says where."""


class Retrofit(NamedTuple):
    """What a retrofit left on disk.

    Attributes:
        cam_out_dir: upstream's .npy files, one per photo.
        prototypes: file of the vision prototypes.
        photos: how many photos there are.
        made_by: what the file says of how they were made: loss, gap, settings.
    """

    cam_out_dir: Path
    prototypes: Path
    photos: int
    made_by: dict[str, Any]


def retrofit(
    checkout: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    img_root: str | os.PathLike[str],
    cam_out_dir: str | os.PathLike[str],
    split_file: str | os.PathLike[str] | None = None,
    dataset: str = "voc12",
    num_workers: int = 1,
    tau_I: float = 0.03,
    anchor: float = DEFAULT_ANCHOR,
    threshold: float = 0.4,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    prototypes: str | os.PathLike[str] | None = None,
    traceback: bool = False,
) -> Retrofit:
    """Runs CLIP-ES's own code with vision prototypes in the place of its two text-feature tensors.

    Upstream's ``perform`` runs twice over the photos of the split: with its text features, whose
    CAMs become the seeds that prototypes are learned from with upstream's own encoder; and with
    the prototypes, for the CAMs that stay, its softmax at 1 / tau_I. All of it happens in a process
    of its own, so nothing is imported here, and nothing is written into the checkout. Without a
    GPU upstream's ``cuda:`` devices become the CPU. A run that was stopped goes
    on with the photo where it was when called again with the same settings.

    Args:
        checkout: folder of CLIP-ES, as cloned.
        model: as upstream's flag: OpenAI's ViT-B-16.pt; or "mini" for the embedded model.
        img_root: as upstream's flag; for VOC a JPEGImages folder with Annotations beside it.
        cam_out_dir: as upstream's flag: where the .npy files go. Its ``eval_cam.py`` wants "voc" or
            "coco" in this path. The prototypes go into its sub-folder ``vpl``.
        split_file: as upstream's flag; None is upstream's own train split.
        dataset: "voc12" or "coco14", which of upstream's two scripts.
        num_workers: as upstream's flag, processes.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to learn from in each photo; None takes them all.
        seed: of the draw.
        prototypes: a .safetensors of an earlier run, such as on the train split; None learns them.
        traceback: where upstream's code fails, its process prints where.

    Returns:
        Where things are, and what made the prototypes.

    Raises:
        FileNotFoundError: the checkout, the model, the split file or photos are missing.
        ValueError: not a CLIP-ES checkout, or of an unknown shape; bad settings; a ``cam_out_dir``
            that holds other results.
        ImportError: a package that the checkout's code imports is not installed.
        UpstreamError: upstream's code failed; the message names the photo where it can.

    Example:
        >>> retrofit("CLIP-ES", model="ViT-B-16.pt", img_root="VOC2012/JPEGImages",
        ...          cam_out_dir="out/voc_vpl")  # doctest: +SKIP
    """
    check_choice("dataset", dataset, SCRIPTS)
    check_count("num_workers", num_workers)
    check_positive("tau_I", tau_I)
    check_not_negative("anchor", anchor)
    check_fraction("threshold", threshold)
    if pixels_per_photo is not None:
        check_count("pixels_per_photo", pixels_per_photo)
    script = SCRIPTS[dataset]
    root = check_checkout(checkout, script)
    model = str(model)
    if Path(model).is_file():
        model = str(Path(model).resolve())
    elif Path(model).suffix:
        raise FileNotFoundError(f"there is no model file {model}")
    split_path = root / script.split_file if split_file is None else Path(split_file)
    split = read_split(split_path, script, Path(img_root))
    check_photos(Path(img_root), split, script)
    check_packages(root, script)
    if prototypes is not None and not Path(prototypes).is_file():
        raise FileNotFoundError(f"there is no file of prototypes {prototypes}")
    job = UpstreamJob(
        checkout=str(root),
        dataset=dataset,
        model=model,
        # Not resolved: upstream finds the annotations by words in this path, links included.
        img_root=os.path.abspath(img_root),
        split_file=str(split_path.resolve()),
        cam_out_dir=os.path.abspath(cam_out_dir),
        num_workers=num_workers,
        tau_I=tau_I,
        anchor=anchor,
        threshold=threshold,
        pixels_per_photo=pixels_per_photo,
        seed=seed,
        prototypes=None if prototypes is None else str(Path(prototypes).resolve()),
        traceback=traceback,
    )
    _check_same_run(job, split)
    made_by = _run_in_a_process(job)
    return Retrofit(Path(job.cam_out_dir), job.learned, len(split.photos), made_by)


def _run_in_a_process(job: UpstreamJob) -> dict[str, Any]:
    """Runs the job in a child process, whose output and progress bars are this one's."""
    # -c and not -m: the processes that the child starts must find its functions under their name.
    code = (
        "import sys; from vpl_plugin.adapters.clip_es.upstream.runner import main; sys.exit(main())"
    )
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        # Upstream loads models with whatever torch.load does by default; nothing is unpickled.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    Path(job.cam_out_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result_file = Path(folder) / "result.json"
        command = [sys.executable, "-c", code, json.dumps(vars(job)), str(result_file)]
        exit_code = subprocess.run(command, env=environment, check=False).returncode
        result = json.loads(result_file.read_text()) if result_file.exists() else {}
    if "facts" not in result:
        why = result.get("error", f"its process ended with exit code {exit_code}")
        raise UpstreamError(f"the checkout {job.checkout} did not get through: {why}")
    return result["facts"]


def _check_same_run(job: UpstreamJob, split: UpstreamSplit) -> None:
    """CAMs of two different runs never mix in one folder."""
    if job.learned.exists():
        stored = Prototypes.load(job.learned).about.get("settings", {})
        settings = job.settings()
        differing = [name for name in settings if settings[name] != stored.get(name)]
        if differing:
            shown = ", ".join(f"{name} was {stored.get(name)!r}" for name in differing)
            raise InputError(
                f"cam_out_dir {job.cam_out_dir} holds the results of other settings ({shown}):"
                " choose another"
            )
        return
    for name in split.photos:
        file = Path(job.cam_out_dir) / Path(name).with_suffix(".npy")
        if file.exists():
            raise InputError(
                f"cam_out_dir {job.cam_out_dir} holds CAMs of another program, such as {file.name}:"
                " choose another"
            )
