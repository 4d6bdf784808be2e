"""The notebooks run in a kernel, as their readers run them, and their outputs stay small."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from vpl_plugin.clip import VOC
from vpl_plugin.localization import read_mask
from vpl_plugin.prototypes import Prototypes

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
# Of JSON, as a committed notebook would hold it.
MOST_OUTPUT = 1_000_000


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with its outputs; raises what a cell raises."""
    kernel = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=600, resources=kernel).execute()


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: NotebookNode) -> str:
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs_and_shows_little(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    notebook = executed(nbformat.read(path, as_version=4), tmp_path)
    seconds = time.perf_counter() - started
    size = len(json.dumps(outputs(notebook)))
    with capsys.disabled():
        print(f"\n{path.name}: {seconds:.0f} s, outputs of {size / 1000:.0f} kB")
    assert size < MOST_OUTPUT
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells
    assert outputs(notebook) == []
    assert not any(cell.get("execution_count") for cell in notebook.cells)


def test_your_own_clip_takes_a_folder_of_hugging_face_and_photos_of_ones_own(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    }
    # CLIP's vocabulary, so that its tokenizer fits and nothing is to be downloaded.
    text = {**tower, "vocab_size": 49408, "eos_token_id": 49407}
    vision = {**tower, "image_size": 64, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "my_clip")

    from vpl_plugin.experiments.demo.photos import demo_photos

    rows = ["photo,labels"]
    (tmp_path / "mine" / "more").mkdir(parents=True)
    for item in demo_photos():
        item.photo.reduce(4).save(tmp_path / "mine" / "more" / f"{item.name}.jpg")
        rows.append(f"more/{item.name}.jpg,{';'.join(item.labels)}")
    (tmp_path / "mine.csv").write_text("\n".join([*rows, "absent.jpg,cat"]))

    notebook = nbformat.read(ROOT / "examples" / "your_own_clip.ipynb", as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for line, changed in (
        ('CLIP, PRETRAINED = "mini", None', 'CLIP, PRETRAINED = "my_clip", None'),
        ("PHOTOS, LABELS = None, None", 'PHOTOS, LABELS = "mine", "mine.csv"'),
    ):
        assert settings.source.count(f"{line}\n") == 1
        settings.source = settings.source.replace(f"{line}\n", f"{changed}\n")
    told = printed(executed(notebook, tmp_path))
    assert "left out: mine/absent.jpg: there is no such photo" in told
    assert "6 photos; the first: more/admiral.jpg, ['person']" in told
    held = Prototypes.load(tmp_path / "own_clip" / "prototypes.safetensors")
    assert held.rows.shape == (45, 32)
    for item in demo_photos():
        mask = read_mask(tmp_path / "own_clip" / "masks" / "more" / f"{item.name}.jpg.png")
        assert mask.shape == item.photo.reduce(4).size[::-1]
        allowed = {0, 255, *(index + 1 for index in VOC.indices(item.labels))}
        assert set(np.unique(mask)) <= allowed
