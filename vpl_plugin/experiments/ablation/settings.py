"""The settings of ``vpl ablate``, a way to make prototypes and CAMs each, and its tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass

from vpl_plugin.adapters.clip_es import DEFAULT_ANCHOR

__all__ = ["DEFAULT", "TABLES", "TEXT", "Setting", "Table"]

LOGIT_SCALE_TEMPERATURE = 0.01


@dataclass(frozen=True)
class Setting:
    """One way to make prototypes and CAMs.

    Attributes:
        prototypes: "text", "vision" or "modified gap" (Liang et al.'s shift).
        templates: "clip_es", "single" or "ensemble".
        targets: "refined seeds", "raw seeds", "Eq. 5", "Eq. 5, present classes" or "true masks".
        threshold: Phi.
        tau_I: temperature of the vision distribution.
        anchor: lambda, the weight of the prior at the text prototypes.
        solver: name of the solver.
        lr: alpha, its (first) step.
        constraint: "sphere" or "ball".
        iterations: T_w, at most.
        tolerance: of the solver; 0 runs all iterations.
        regularization: "instance" or "class".
        temperature: of GradCAM's softmax; None is tau_I for vision prototypes, else CLIP's.
        shift: of "modified gap".
        pixels_per_photo: how many are drawn from each photo; None takes them all.
        seed: of that draw.
        photos: how many of the train photos are learned from; None takes them all.
        draw: which ones.
    """

    prototypes: str = "vision"
    templates: str = "clip_es"
    targets: str = "refined seeds"
    threshold: float = 0.4
    tau_I: float = 0.03
    anchor: float = DEFAULT_ANCHOR
    solver: str = "apgd"
    lr: float = 10.0
    constraint: str = "sphere"
    iterations: int = 3000
    tolerance: float = 3e-4
    regularization: str = "instance"
    temperature: float | None = None
    shift: float = 0.0
    pixels_per_photo: int | None = 128
    seed: int = 0
    photos: int | None = None
    draw: int = 0

    @property
    def key(self) -> str:
        """A text that names the setting uniquely."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def gradcam_temperature(self) -> float | None:
        """The temperature GradCAM is called with."""
        if self.temperature is None and self.prototypes == "vision":
            return self.tau_I
        return self.temperature


@dataclass(frozen=True)
class Table:
    """Settings in rows.

    Attributes:
        title: heading, with the paper's table it stands beside.
        label: names a row by its setting.
        rows: the settings.
        paper: the paper's figure for each row, None where it has none.
    """

    title: str
    label: Callable[[Setting], str]
    rows: tuple[Setting, ...]
    paper: tuple[str | None, ...]


def _table(title: str, label: Callable[[Setting], str], *rows: tuple[Setting, str | None]) -> Table:
    return Table(title, label, tuple(row for row, _ in rows), tuple(paper for _, paper in rows))


def _prior(setting: Setting) -> str:
    return "" if setting.anchor else ", no prior"


TEXT = Setting(prototypes="text")
DEFAULT = Setting()

TABLES: dict[str, Table] = {
    "prompts": _table(
        "Prompts and prototypes (the paper's Table 4: mIoU / gap)",
        lambda s: f"{s.prototypes}{f' {s.shift:g}' if s.shift else ''}, {s.templates} prompt",
        (Setting(prototypes="text", templates="single"), "61.7 / 0.81"),
        (Setting(prototypes="text", templates="ensemble"), "63.3 / 0.76"),
        (TEXT, None),
        (Setting(prototypes="modified gap", templates="single", shift=0.5), "62.0 / 0.77"),
        (Setting(prototypes="modified gap", templates="ensemble", shift=0.5), "63.5 / 0.71"),
        (Setting(templates="single"), "66.8 / 0.64"),
        (Setting(templates="ensemble"), "68.2 / 0.51"),
        (DEFAULT, None),
    ),
    "anchor": _table(
        "Prior at the text prototypes",
        lambda s: "text prototypes" if s.prototypes == "text" else f"lambda = {s.anchor:g}",
        (TEXT, None),
        *((Setting(anchor=anchor), None) for anchor in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)),
    ),
    "tau_I": _table(
        "Temperature tau_I (the paper's Table 5: mIoU / gap)",
        lambda s: "text prototypes" if s.prototypes == "text" else f"tau_I = {s.tau_I:g}",
        (TEXT, "63.3 / 0.76"),
        (Setting(tau_I=0.01), "66.9 / 0.64"),
        (Setting(tau_I=0.02), "67.3 / 0.57"),
        (Setting(tau_I=0.03), "68.2 / 0.51"),
        (Setting(tau_I=0.04), "67.8 / 0.49"),
        (Setting(tau_I=0.05), "67.2 / 0.47"),
    ),
    "threshold": _table(
        "Threshold Phi (the paper's Table 6: mIoU)",
        lambda s: f"Phi = {s.threshold:g}",
        (Setting(threshold=0.2), "67.2"),
        (Setting(threshold=0.3), "67.7"),
        (Setting(threshold=0.4), "68.2"),
        (Setting(threshold=0.5), "67.9"),
        (Setting(threshold=0.6), "67.3"),
        (Setting(threshold=0.7), "67.9"),
    ),
    "iterations": _table(
        "Iterations T_w (the paper's Table 7: mIoU)",
        lambda s: f"{s.solver}, {s.iterations}{_prior(s)}",
        *(
            (Setting(anchor=anchor, iterations=count, tolerance=0.0), None)
            for anchor in (DEFAULT.anchor, 0.0)
            for count in (5, 10, 20, 40, 100, 300)
        ),
        *(
            (
                Setting(solver="pgd_halving", anchor=0.0, iterations=count, tolerance=0.0),
                {1000: "65.9", 3000: "68.2"}.get(count),
            )
            for count in (100, 300, 1000, 3000)
        ),
    ),
    "solver": _table(
        "Solver and constraint",
        lambda s: f"{s.solver}, lr {s.lr:g}, on the {s.constraint}{_prior(s)}",
        (DEFAULT, None),
        (Setting(anchor=0.0), None),
        (Setting(constraint="ball"), None),
        (Setting(constraint="ball", anchor=0.0), None),
        (Setting(solver="pgd_halving", iterations=3000, tolerance=0.0), None),
        (Setting(solver="pgd_halving", anchor=0.0, iterations=3000, tolerance=0.0), "68.2"),
        (Setting(solver="pgd", anchor=0.0, iterations=1000, tolerance=0.0), None),
        (Setting(solver="pgd", lr=0.01, anchor=0.0, iterations=1000, tolerance=0.0), None),
    ),
    "targets": _table(
        "Targets and regularisation (Theorems 2 and 3)",
        lambda s: s.targets + (", class-level" if s.regularization == "class" else "") + _prior(s),
        (Setting(targets="Eq. 5", anchor=0.0), None),
        (Setting(targets="Eq. 5"), None),
        (Setting(targets="Eq. 5, present classes"), None),
        (Setting(targets="raw seeds"), None),
        (Setting(targets="refined seeds"), None),
        (Setting(targets="refined seeds", regularization="class", anchor=0.0), None),
        (Setting(targets="true masks"), None),
    ),
    "temperature": _table(
        "Temperature of GradCAM's softmax",
        lambda s: f"{s.prototypes} prototypes, {s.temperature or s.gradcam_temperature or 0.01:g}",
        (TEXT, None),
        (Setting(prototypes="text", temperature=0.03), None),
        (Setting(temperature=LOGIT_SCALE_TEMPERATURE), None),
        (Setting(temperature=0.02), None),
        (Setting(), None),
        (Setting(temperature=0.05), None),
    ),
    "pixels": _table(
        "Pixels drawn from each photo",
        lambda s: "all" if s.pixels_per_photo is None else str(s.pixels_per_photo),
        *((Setting(pixels_per_photo=count), None) for count in (8, 32, 128, 512, None)),
    ),
    "seeds": _table(
        "Seeds of the pixels drawn",
        lambda s: f"seed {s.seed}",
        (Setting(), None),
        (Setting(seed=1), None),
        (Setting(seed=2), None),
    ),
}
