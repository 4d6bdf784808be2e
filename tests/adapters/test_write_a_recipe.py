"""The page "Write a recipe", followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write_a_recipe.md"


def test_the_page_leads_a_newcomer_to_vision_prototypes(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == [
        *("Toy/toy.py", "Toy/run.py", "make_photos.py", "toy_recipe.py", "pyproject.toml")
    ]
    for name, held in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(held)
    commands = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    install = "pip install --editable .\n"
    assert commands[0].startswith(install)
    # What pip would do, which takes a network to build: the entry points beside the module.
    entry = re.search(r"^toy = .+$", files[-1][1], re.MULTILINE)[0].replace('"', "")
    metadata = tmp_path / "toy_recipe-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-recipe\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[vpl_plugin.recipes]\n{entry}\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, call in (("vpl", " -m vpl_plugin.cli.main"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    script = "set -e\n" + "".join(commands).replace(install, "")
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True)
    maps = {folder: tmp_path / folder / "maps/rocket.pt" for folder in ("text", "vision")}
    assert maps["text"].read_bytes() != maps["vision"].read_bytes()
    assert not list((tmp_path / "Toy").rglob("*.pyc"))
