"""Vision prototypes in an unmodified checkout of a method's code."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vpl_plugin.adapters.clip_es.learning import learned_prototypes
from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR
from vpl_plugin.adapters.clip_es.stages.learn import SeedStream
from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.checkout import check_checkout, check_packages, commit_of
from vpl_plugin.adapters.retrofit.job import TEXT, Job, UpstreamError
from vpl_plugin.checks import check_count, check_fraction, check_not_negative, check_positive
from vpl_plugin.core.prototypes import fit_vision_prototypes
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results

__all__ = ["Retrofit", "retrofit"]

logger = logging.getLogger(__name__)


class Retrofit(NamedTuple):
    """What a retrofit left on disk.

    Attributes:
        output: the method's own files.
        prototypes: file of the prototypes that made them.
        photos: how many photos there are.
        made_by: what that file says of how they were made: loss, gap, settings.
    """

    output: Path
    prototypes: Path
    photos: int
    made_by: dict[str, Any]


def retrofit(
    recipe: str,
    checkout: str | os.PathLike[str],
    output: str | os.PathLike[str],
    flags: Sequence[str] = (),
    *,
    tau_I: float = 0.03,
    anchor: float = DEFAULT_ANCHOR,
    threshold: float = 0.4,
    pixels_per_photo: int | None = 128,
    seed: int = 0,
    prototypes: str | os.PathLike[str] | None = None,
    traceback: bool = False,
) -> Retrofit:
    """Runs a method's own script with vision prototypes in the place of its text prototypes.

    The script runs twice over the photos of its list: with its text prototypes, whose maps become
    the seeds that prototypes are learned from with its own encoder; and with the prototypes, for
    the files that stay. Each happens in a process of its own, so nothing is imported here, and
    nothing is written into the checkout: the script runs in a folder of links to it, so that
    relative paths in its flags are those of the checkout. Without a GPU ``cuda`` devices become the
    CPU. A run that was stopped goes on with the photo where it was when called again with the same
    settings.

    Args:
        recipe: its name, one of :data:`vpl_plugin.adapters.recipes.RECIPES`.
        checkout: folder of the method's code, as cloned.
        output: where the script's files go; the prototypes go into its sub-folder ``vpl``.
        flags: of the script. What the recipe sets itself comes after them.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes; 0 is the paper's problem.
        threshold: Phi of the seeds.
        pixels_per_photo: how many to learn from in each photo; None takes them all.
        seed: of the draw.
        prototypes: a .safetensors of an earlier run, such as on the train split; "text" for the
            method's own, which change nothing; by default they are learned.
        traceback: where the method's code fails, its process prints where.

    Returns:
        Where things are, and what made the prototypes.

    Raises:
        FileNotFoundError: the checkout or the prototypes are missing.
        ValueError: not a checkout of the method, or of an unknown shape; bad settings; an
            ``output`` that holds other results.
        ImportError: a package that the checkout's code imports is not installed.
        UpstreamError: the method's code failed; the message names the photo where it can.

    Example:
        >>> retrofit("weclip", "WeCLIP/WeCLIP", "out", ["--config", "voc.yaml",
        ...          "--model_path", "WeCLIP_model_iter_30000.pth"])  # doctest: +SKIP
    """
    method = RECIPES[recipe]()
    check_positive("tau_I", tau_I)
    check_not_negative("anchor", anchor)
    check_fraction("threshold", threshold)
    if pixels_per_photo is not None:
        check_count("pixels_per_photo", pixels_per_photo)
    root = check_checkout(checkout, method)
    method.check(root, flags)
    check_packages(root, method)
    if prototypes is not None and prototypes != TEXT:
        if not Path(prototypes).is_file():
            raise FileNotFoundError(f"there is no file of prototypes {prototypes}")
        prototypes = Path(prototypes).resolve()
    learning: dict[str, Any] = {
        "tau_I": tau_I,
        "anchor": anchor,
        "threshold": threshold,
        "pixels_per_photo": pixels_per_photo,
        "seed": seed,
        "prototypes": None if prototypes is None else str(prototypes),
    }
    job = Job(
        recipe=recipe,
        checkout=str(root),
        output=os.path.abspath(output),
        flags=tuple(flags),
        settings={**method.settings(root, flags), **learning},
        traceback=traceback,
        **learning,
    )
    _check_same_run(job, method.outputs)
    commit = commit_of(root)
    if commit and not commit.startswith(method.commit):
        logger.info(
            "the checkout is at %s; the recipe was written for %s, whose shape it has",
            commit[: len(method.commit)],
            method.commit,
        )
    job.own_folder.mkdir(parents=True, exist_ok=True)
    if prototypes is None and not job.learned.exists():
        Results.claim(job.seeds, job.settings)
        _learn(job, _run_in_a_process(job, learns=True))
    photos = _run_in_a_process(job, learns=False)
    made_by = dict(Prototypes.load(job.learned).about)
    return Retrofit(Path(job.output), job.learned, len(photos), made_by)


def _learn(job: Job, photos: list[str]) -> None:
    """Alg. 1 of the VPL paper on the seeds of all photos."""
    text = Prototypes.load(job.text)
    Z = torch.nn.functional.normalize(text.rows.float(), dim=1)
    files = [job.seeds_of(photo) for photo in photos]
    stream = SeedStream(files, dataclasses.replace(text, rows=Z))
    fit = fit_vision_prototypes(stream, Z, job.tau_I, anchor=job.anchor)
    facts = {"anchor": job.anchor, "threshold": job.threshold, "settings": job.settings}
    learned_prototypes(text, fit, job.tau_I, facts).save(job.learned)
    shutil.rmtree(job.seeds, ignore_errors=True)


def _run_in_a_process(job: Job, *, learns: bool) -> list[str]:
    """Runs a pass in a child process, whose output and progress bars are this one's."""
    # -c and not -m: the processes that the child starts must find its functions under their name.
    code = "import sys; from vpl_plugin.adapters.retrofit.child import main; sys.exit(main())"
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        # Upstream loads models with whatever torch.load does by default; nothing is unpickled.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        result_file = Path(folder) / "result.json"
        words = [json.dumps(vars(job)), "learn" if learns else "show", str(result_file)]
        command = [sys.executable, "-c", code, *words]
        exit_code = subprocess.run(command, env=environment, check=False).returncode
        result = json.loads(result_file.read_text()) if result_file.exists() else {}
    if "photos" not in result:
        why = result.get("error", f"its process ended with exit code {exit_code}")
        raise UpstreamError(f"the checkout {job.checkout} did not get through: {why}")
    return result["photos"]


def _check_same_run(job: Job, outputs: tuple[str, ...]) -> None:
    """Files of two different runs never mix in one folder."""
    if job.learned.exists():
        stored = Prototypes.load(job.learned).about.get("settings", {})
        differing = [name for name in job.settings if job.settings[name] != stored.get(name)]
        if differing:
            shown = ", ".join(f"{name} was {stored.get(name)!r}" for name in differing)
            raise InputError(
                f"the output {job.output} holds the results of other settings ({shown}):"
                " choose another"
            )
        return
    for pattern in outputs:
        for file in Path(job.output).glob(pattern.format(photo="*")):
            raise InputError(
                f"the output {job.output} holds files of another program, such as {file.name}:"
                " choose another"
            )
