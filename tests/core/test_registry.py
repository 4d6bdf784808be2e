"""One file adds a solver or a target, in a package of the user's too; names are listed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vpl_plugin import fit_vision_prototypes, learn_vision_prototypes
from vpl_plugin.core.solvers import SOLVERS
from vpl_plugin.core.targets import TARGETS
from vpl_plugin.errors import InputError

SOLVER = """
from vpl_plugin.core.solvers import SOLVERS

@SOLVERS.register("toy")
def toy(problem, W, lr):
    for _ in range(5):
        point = problem.at(W)
        yield point
        W = problem.constraint.project(W - lr * point.gradient)
"""
TARGET = """
from vpl_plugin.core.targets import TARGETS

@TARGETS.register("toy")
def toy(features, text_prototypes, tau_T, *, label_masks=None):
    nearest = (features @ text_prototypes.T).argmax(dim=1)
    return (nearest[:, None] == nearest.new_tensor(range(len(text_prototypes)))).to(features.dtype)
"""
ENTRY_POINTS = """
[vpl_plugin.solvers]
toy = toy_solver:toy

[vpl_plugin.targets]
toy = toy_target:toy
"""


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 8, generator=generator), torch.randn(4, 8, generator=generator)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a file for each; the registries forget it afterwards."""
    (tmp_path / "toy_solver.py").write_text(SOLVER)
    (tmp_path / "toy_target.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, registry in (("toy_solver", SOLVERS), ("toy_target", TARGETS)):
        sys.modules.pop(name, None)
        registry._entries.pop("toy", None)


def imported(folder: Path) -> None:
    importlib.import_module("toy_solver")
    importlib.import_module("toy_target")


def installed(folder: Path) -> None:
    metadata = folder / "toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    assert "toy_solver" not in sys.modules


@pytest.mark.parametrize("add", [imported, installed])
def test_one_file_adds_a_solver(
    add: Callable[[Path], None], folder: Path, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    add(folder)
    assert "toy" in SOLVERS
    fit = fit_vision_prototypes(*data, solver="toy", lr=0.05, tolerance=0)
    assert fit.stop_reason == "stalled"
    assert (fit.passes, len(fit.losses)) == (5, 5)
    four_steps = learn_vision_prototypes(*data, solver="pgd", lr=0.05, iterations=4, tolerance=0)
    assert torch.equal(fit.prototypes, four_steps)
    assert torch.equal(
        learn_vision_prototypes(*data, solver="toy", lr=0.05, iterations=4), four_steps
    )


@pytest.mark.parametrize("add", [imported, installed])
@pytest.mark.parametrize("streamed", [False, True])
def test_one_file_adds_a_target(
    add: Callable[[Path], None],
    streamed: bool,
    folder: Path,
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    add(folder)
    features, text = data
    nearest = (F.normalize(features) @ F.normalize(text).T).argmax(dim=1)
    W = learn_vision_prototypes([features] if streamed else features, text, targets="toy")
    torch.testing.assert_close(W, learn_vision_prototypes(features, text, targets=nearest))


def test_the_text_distribution_goes_by_name_too(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(
        learn_vision_prototypes(*data, targets="text"), learn_vision_prototypes(*data)
    )


def test_a_target_of_another_shape_is_named(
    folder: Path, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    TARGETS.register("toy")(lambda features, *_, label_masks=None: features[:, :1])
    with pytest.raises(
        InputError, match=r"the target function must give .* shape \(60, 4\); got .*60, 1"
    ):
        learn_vision_prototypes(*data, targets="toy")


def test_listing_the_names_loads_no_package(folder: Path) -> None:
    installed(folder)
    assert list(SOLVERS)[:3] == ["apgd", "pgd", "pgd_halving"]
    assert "toy" in list(SOLVERS)
    assert "toy_solver" not in sys.modules


def test_an_unknown_name_lists_those_that_exist_and_the_nearest(folder: Path) -> None:
    installed(folder)
    with pytest.raises(
        InputError,
        match=r"unknown solver 'agpd'; these exist: 'apgd', .*'toy'.*; did you mean 'apgd'",
    ):
        SOLVERS["agpd"]
    with pytest.raises(InputError, match="unknown targets 'seeds'; these exist: 'text'"):
        learn_vision_prototypes(torch.eye(2), torch.eye(2), targets="seeds")


def test_a_name_belongs_to_one_module(folder: Path) -> None:
    for name, owner in (("pgd", r"vpl_plugin\.core\.solvers\.pgd"), ("toy", "toy_solver")):
        imported(folder)
        with pytest.raises(InputError, match=f"the solver {name!r} exists already, in {owner}"):
            SOLVERS.register(name)(lambda problem, W, lr: iter(()))
    # As when a cell of a notebook runs again.
    importlib.reload(sys.modules["toy_solver"])


def test_names_are_listed_without_torch() -> None:
    code = "from vpl_plugin.core.solvers import SOLVERS as s; import sys; print(*s, *sys.modules)"
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names = listed.stdout.split()
    assert {"apgd", "pgd", "pgd_halving"} < set(names)
    assert "torch" not in names
