"""CLIP-ES (Lin et al., CVPR 2023, repository linyq2117/CLIP-ES) on PASCAL VOC.

Its text features are two arguments of ``perform``, which works in several processes: so this recipe
calls that function itself, where others run a script.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from vpl_plugin.adapters.clip_es.upstream.perform import perform_pass
from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS, UpstreamScript, read_flags
from vpl_plugin.adapters.clip_es.upstream.split import check_photos, read_split
from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit.passes import Pass
from vpl_plugin.adapters.retrofit.recipe import Recipe, Shape
from vpl_plugin.checks import check_count

__all__ = ["ClipES", "shape_of"]


def shape_of(script: UpstreamScript) -> Shape:
    """What CLIP-ES's checkout must hold for one of its scripts."""
    called = ("reshape_transform", "split_dataset", "zeroshot_classifier")
    functions = {"perform": script.perform, **dict.fromkeys(called)}
    modules = ("clip/__init__.py", "clip_text.py", "pytorch_grad_cam/__init__.py", "utils.py")
    return {f"{script.module}.py": functions, **{name: {} for name in modules}}


@RECIPES.register("clip_es")
class ClipES(Recipe):
    """CLIP-ES's refined CAMs."""

    dataset: ClassVar[str] = "voc12"
    title = "CLIP-ES, generate_cams_voc12.py"
    commit = "3893f81"
    script = "generate_cams_voc12.py"
    shape = shape_of(SCRIPTS["voc12"])
    outputs = ("{photo}.npy",)

    def check(self, root: Path, flags: Sequence[str]) -> None:
        """Raises where the model, the split file, photos or annotations are missing or broken."""
        script = SCRIPTS[self.dataset]
        found = read_flags(flags, script, root)
        check_count("num_workers", found.num_workers)
        check_photos(found.img_root, read_split(found.split_file, script, found.img_root), script)

    def settings(self, root: Path, flags: Sequence[str]) -> dict[str, Any]:
        """What of the flags decides the CAMs: neither where photos lie nor how many work."""
        found = read_flags(flags, SCRIPTS[self.dataset], root)
        return {
            "dataset": self.dataset,
            "model": found.model,
            "split_file": str(found.split_file.resolve()),
        }

    def run(self, job_pass: Pass) -> list[str]:
        """Upstream's ``perform`` on every photo that is not done."""
        script = SCRIPTS[self.dataset]
        flags = read_flags(job_pass.job.flags, script, Path(job_pass.job.checkout))
        return perform_pass(job_pass, script, flags)
