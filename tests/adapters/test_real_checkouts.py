"""Recipes on the real, unmodified checkouts in the folder that VPL_CHECKOUTS names.

Weights are random, photos noise, both small: what is shown is that a method's own prototypes change
no file of its own run, bit for bit, that vision prototypes do, and that the checkout stays clean.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vpl_plugin.adapters.recipes import RECIPES
from vpl_plugin.adapters.retrofit import retrofit
from vpl_plugin.clip import VOC

pytestmark = pytest.mark.upstream
HERE = Path(__file__).parent
FOLDERS = {"clip_es": "CLIP-ES", "weclip": "WeCLIP/WeCLIP", "excel": "ExCEL", "naclip": "NACLIP"}
PHOTOS = {"2007_000032": ["aeroplane", "person"], "2007_000039": ["tvmonitor"]}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos in VOC's layout, with what the methods expect beside them."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationClassAug", "lists"):
        (root / name).mkdir()
    noise, onehot = np.random.default_rng(0), {}
    for name, labels in PHOTOS.items():
        coarse = noise.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 112)).save(root / f"JPEGImages/{name}.jpg")
        mask = np.zeros((112, 160), np.uint8)
        for row, label in enumerate(VOC.indices(labels)):
            mask[30 * row : 30 * row + 20] = 1 + label
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            Image.fromarray(mask).save(root / f"{folder}/{name}.png")
        objects = "".join(f"<object><name>{label}</name></object>" for label in labels)
        size = "<size><height>112</height><width>160</width></size>"
        annotation = f"<annotation>{size}{objects}</annotation>"
        (root / f"Annotations/{name}.xml").write_text(annotation)
        onehot[name] = np.isin(np.arange(20), VOC.indices(labels)).astype(np.float32)
    (root / "lists/train.txt").write_text("\n".join(PHOTOS) + "\n")
    np.save(root / "lists/cls_labels_onehot.npy", onehot)
    return root


class Holder(nn.Module):
    """What TorchScript needs to save weights under their names, as OpenAI does."""

    def forward(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x


def save_archive(path: Path, layers: int, width: int, dim: int, text_width: int) -> Path:
    """A CLIP of random weights in OpenAI's format; the text tower has one block."""
    noise = torch.Generator().manual_seed(0)
    root = Holder()

    def put(name: str, *shape: int, scale: float = 0.02, shift: float = 0.0) -> None:
        *above, last = name.split(".")
        owner: nn.Module = root
        for part in above:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        value = shift + scale * torch.randn(shape, generator=noise)
        owner.register_parameter(last, nn.Parameter(value, requires_grad=False))

    def norm(name: str, size: int) -> None:
        put(f"{name}.weight", size, scale=0, shift=1)
        put(f"{name}.bias", size, scale=0)

    def tower(prefix: str, blocks: int, size: int) -> None:
        for index in range(blocks):
            block = f"{prefix}transformer.resblocks.{index}"
            put(f"{block}.attn.in_proj_weight", 3 * size, size)
            put(f"{block}.attn.in_proj_bias", 3 * size)
            for name, shape in (
                ("attn.out_proj", (size, size)),
                ("mlp.c_fc", (4 * size, size)),
                ("mlp.c_proj", (size, 4 * size)),
            ):
                put(f"{block}.{name}.weight", *shape)
                put(f"{block}.{name}.bias", shape[0])
            norm(f"{block}.ln_1", size)
            norm(f"{block}.ln_2", size)

    put("visual.conv1.weight", width, 3, 16, 16)
    put("visual.class_embedding", width)
    put("visual.positional_embedding", 14 * 14 + 1, width)
    put("visual.proj", width, dim)
    norm("visual.ln_pre", width)
    norm("visual.ln_post", width)
    tower("visual.", layers, width)
    put("token_embedding.weight", 49408, text_width)
    put("positional_embedding", 77, text_width)
    put("text_projection", text_width, dim)
    norm("ln_final", text_width)
    put("logit_scale", scale=0, shift=4.6052)
    tower("", 1, text_width)
    torch.jit.save(torch.jit.script(root), path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of ViT-B/16, which WeCLIP and ExCEL have in their code."""
    return save_archive(tmp_path_factory.mktemp("vit") / "ExCEL_ViT-B-16.pt", 12, 768, 512, 512)


@pytest.fixture
def checkout() -> Callable[[str], Path]:
    def found(recipe: str) -> Path:
        folder = os.environ.get("VPL_CHECKOUTS")
        if folder is None or not (Path(folder) / FOLDERS[recipe]).is_dir():
            pytest.skip(f"VPL_CHECKOUTS names no folder with {FOLDERS[recipe]}")
        return Path(folder) / FOLDERS[recipe]

    return found


def status(root: Path) -> str:
    command = ["git", "-C", str(root), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def photo_files(folder: Path, recipe: str) -> dict[str, bytes]:
    """The files of photos, as the recipe names them."""
    outputs = RECIPES[recipe].outputs
    patterns = [pattern.format(photo=name) for pattern in outputs for name in PHOTOS]
    found = [file for pattern in patterns for file in folder.glob(pattern)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def check(recipe: str, root: Path, flags: list[str], own: Path, tmp_path: Path) -> None:
    before = status(root)
    text = retrofit(recipe, root, tmp_path / "text", flags, prototypes="text")
    again = retrofit(recipe, root, tmp_path / "again", flags, prototypes=text.prototypes)
    vision = retrofit(recipe, root, tmp_path / "vision", flags)
    expected = photo_files(own, recipe)
    assert len(expected) == len(PHOTOS) * len(RECIPES[recipe].outputs)
    assert photo_files(text.output, recipe) == photo_files(again.output, recipe) == expected
    learned = photo_files(vision.output, recipe)
    assert {Path(name).stem for name in expected if learned[name] != expected[name]} == {*PHOTOS}
    assert status(root) == before


def own_run(recipe: str, root: Path, flags: list[str], folder: Path) -> Path:
    words = [recipe, str(root), str(folder), *flags]
    subprocess.run([sys.executable, str(HERE / "own_run.py"), *words], check=True)
    return folder


def test_clip_es(checkout: Callable[[str], Path], voc: Path, tmp_path: Path) -> None:
    root, own = checkout("clip_es"), tmp_path / "own"
    weights = save_archive(tmp_path / "small.pt", 10, 128, 64, 64)
    flags = ["--img_root", str(voc / "JPEGImages"), "--split_file", str(voc / "lists/train.txt")]
    flags += ["--model", str(weights)]
    own_run("clip_es", root, [*flags, "--cam_out_dir", str(own / "cams")], own)
    check("clip_es", root, flags, own / "cams", tmp_path)


def test_weclip(checkout: Callable[[str], Path], voc: Path, vit: Path, tmp_path: Path) -> None:
    root = checkout("weclip")
    lines = (root / "configs/voc_attn_reg.yaml").read_text()
    for theirs, ours in (
        ("/your/path/VOCdevkit/VOC2012", voc),
        ("/your/path/WeCLIP/datasets/voc", voc / "lists"),
        ("/your/path/WeCLIP/pretrained/ViT-B-16.pt", vit),
    ):
        assert theirs in lines
        lines = lines.replace(theirs, str(ours))
    (tmp_path / "voc.yaml").write_text(lines)
    # The decoder, of which there are no random weights that two runs share.
    decoder = tmp_path / "decoder.pth"
    code = (
        "import torch; from WeCLIP_model.model_attn_aff_voc import WeCLIP;"
        f"model = WeCLIP(21, {str(vit)!r}, 256, [768] * 4, {str(voc)!r}, 'cuda');"
        "held = {k: v for k, v in model.state_dict().items() if k.startswith('decoder')};"
        f"torch.save(held, {str(decoder)!r})"
    )
    (tmp_path / "make_decoder.py").write_text(code.replace("; ", ";").replace(";", "\n"))
    # An absolute path in the place of the script's.
    words = [str(HERE / "own_run.py"), "weclip", str(root), str(tmp_path / "decoder")]
    environment = {**os.environ, "VPL_OWN_SCRIPT": str(tmp_path / "make_decoder.py")}
    subprocess.run([sys.executable, *words], check=True, env=environment)
    flags = ["--config", str(tmp_path / "voc.yaml"), "--model_path", str(decoder)]
    flags += ["--eval_set", "train", "--resize_long", "160"]
    check("weclip", root, flags, own_run("weclip", root, flags, tmp_path / "own"), tmp_path)


def test_excel(checkout: Callable[[str], Path], voc: Path, vit: Path, tmp_path: Path) -> None:
    flags = ["--model", str(vit), "--data_folder", str(voc), "--list_folder", str(voc / "lists")]
    root = checkout("excel")
    check("excel", root, flags, own_run("excel", root, flags, tmp_path / "own"), tmp_path)


def test_naclip(checkout: Callable[[str], Path], voc: Path, tmp_path: Path) -> None:
    root = checkout("naclip").resolve()
    weights = save_archive(tmp_path / "small.pt", 2, 128, 64, 64)
    (tmp_path / "voc21.py").write_text(
        f'_base_ = "{root}/configs/cfg_voc21.py"\nmodel = dict(clip_path="{weights}")\n'
        f'data = dict(data_root="{voc}", ann_file="lists/train.txt")\n'
        "test_dataloader = dict(num_workers=1, dataset=data)\n"
        'test_evaluator = dict(output_dir="masks")\n'
    )
    flags = ["--config", str(tmp_path / "voc21.py"), "--arch", "reduced", "--attn", "naclip"]
    flags += ["--std", "5", "--pamr", "on"]
    check("naclip", root, flags, own_run("naclip", root, flags, tmp_path / "own"), tmp_path)
