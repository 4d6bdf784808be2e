"""The floors of the house: imports only go down, and importing the package costs nothing."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. Everything above the core writes files with atomic_files and results.
FLOORS = [
    "lazy",
    "errors",
    "checks",
    "registry",
    "core",
    "atomic_files",
    "results",
    "prototypes",
    "distributed",
    "worker_pool",
    "clip",
    "localization",
    "segmentation",
    "adapters",
    "plots",
    "jobs",
    "experiments",
    "cli",
]


def modules() -> dict[str, Path]:
    """Dotted names of all modules, as installed, and their files."""
    found = {}
    for folder, package in (
        (ROOT / "vpl_plugin", "vpl_plugin"),
        (ROOT / "adapters", "vpl_plugin.adapters"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def floor(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else None


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_imports_only_go_down() -> None:
    upward = [
        f"{module} imports {imported}"
        for module, path in modules().items()
        for imported in imports(path)
        if imported.startswith("vpl_plugin.")
        and floor(module) is not None
        and floor(imported) > floor(module)
    ]
    assert not upward
    assert all(floor(module) is not None for module in modules() if module != "vpl_plugin")


def test_the_core_imports_torch_and_the_standard_library_alone() -> None:
    foreign = {
        f"{module}: {imported}"
        for module, path in modules().items()
        if floor(module) is not None and floor(module) <= FLOORS.index("core")
        for imported in imports(path)
        if imported.split(".")[0] not in {*sys.stdlib_module_names, "torch", "numpy", "vpl_plugin"}
    }
    assert not foreign


def test_setup_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert listed == packages


@pytest.mark.parametrize(
    "code",
    [
        "import vpl_plugin",
        "import vpl_plugin.core.prototypes, vpl_plugin.core.rsc, vpl_plugin.core.theory",
        "import vpl_plugin; vpl_plugin.learn_vision_prototypes, vpl_plugin.VPLLoss",
        "import vpl_plugin.clip, vpl_plugin.localization",
    ],
)
def test_imports_touch_no_heavy_package(code: str) -> None:
    heavy = ["open_clip", "torchvision", "matplotlib", "pytorch_grad_cam", "torchmetrics", "cv2"]
    check = f"{code}; import sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_importing_the_package_does_not_even_import_torch() -> None:
    check = "import vpl_plugin, sys; print('torch' in sys.modules, dir(vpl_plugin))"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("False")
    assert "learn_vision_prototypes" in result.stdout


def test_the_public_names_exist() -> None:
    import vpl_plugin

    for name in vpl_plugin.__all__:
        assert getattr(vpl_plugin, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'learn_vision_prototype'"):
        vpl_plugin.learn_vision_prototype  # noqa: B018
