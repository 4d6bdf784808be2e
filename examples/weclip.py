"""WeCLIP with vision prototypes: the attribute swap on its unmodified model class.

WeCLIP (Zhang et al., CVPR 2024, repository zbf1991/WeCLIP) runs the CAM steps of CLIP-ES inside its
model and keeps the text features as plain attributes, ``fg_text_features`` and
``bg_text_features``. ``swap_prototypes`` puts vision prototypes there; nothing of the checkout
changes.

    python examples/weclip.py --weclip WeCLIP/WeCLIP --clip ViT-B-16.pt

The script takes a checkout of WeCLIP (the folder that holds ``WeCLIP_model``) and OpenAI's ViT-B/16
checkpoint. Without ``--clip`` the encoder has random weights: all of the code runs, the CAMs mean
nothing. It learns vision prototypes from three demo photographs with WeCLIP's own encoder, and
shows how far WeCLIP's CAM labels move. Needs the extras ``demo`` and ``upstream``; runs on a CPU,
where WeCLIP alone does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from vpl_plugin import learn_vision_prototypes
from vpl_plugin.adapters.clip_es.upstream.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.swap import swap_prototypes
from vpl_plugin.clip import VOC
from vpl_plugin.experiments.demo.photos import demo_photos

SIDE = 224
PHOTOS = 3
# OpenAI's ViT-B/16: embedding, resolution, layers, width, patch; context, vocabulary, text tower.
VIT_B_16 = (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)


def main(argv: list[str] | None = None) -> int:
    """Runs the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weclip", type=Path, required=True, help="folder with WeCLIP_model")
    parser.add_argument("--clip", type=Path, help="OpenAI's ViT-B/16 (default: random weights)")
    arguments = parser.parse_args(argv)
    if not (arguments.weclip / "WeCLIP_model").is_dir():
        parser.error(f"--weclip must hold the folder WeCLIP_model; {arguments.weclip} does not")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(_importable(arguments.weclip))
        stack.enter_context(_without_cuda())
        torch.manual_seed(0)
        _run(folder, arguments.clip)
    return 0


def _run(folder: Path, checkpoint: Path | None) -> None:
    import clip
    from WeCLIP_model.model_attn_aff_voc import WeCLIP

    if checkpoint is None:
        checkpoint = folder / "random.pt"
        torch.save(clip.model.CLIP(*VIT_B_16).state_dict(), checkpoint)
    pixels, names = _photos(folder)
    model = WeCLIP(
        num_classes=21,
        clip_model=str(checkpoint),
        embedding_dim=256,
        in_channels=[768] * 4,
        dataset_root_path=str(folder),
        device="cuda" if torch.cuda.is_available() else "cpu",
    ).eval()

    # The method's own label maps are the seeds; what is no class goes to the nearest background.
    _, before, _ = model(pixels, names, mode="train")
    X = _features(model.encoder, pixels)
    Z = torch.cat([model.fg_text_features, model.bg_text_features]).float()
    Z = torch.nn.functional.normalize(Z, dim=1).cpu()
    foreground = len(model.fg_text_features)
    labels = torch.nn.functional.interpolate(before[:, None].float(), scale_factor=1 / 16)
    labels = labels.flatten().long().cpu()
    background = foreground + (X @ Z[foreground:].T).argmax(dim=1)
    W = learn_vision_prototypes(
        X, Z, tau_I=0.03, targets=torch.where(labels > 0, labels - 1, background), anchor=0.1
    )

    # WeCLIP's softmax has CLIP's own temperature. Vision prototypes want the one they were learned
    # with, and an encoder keeps it as logit_scale.
    scale = model.encoder.logit_scale.data.clone()
    with swap_prototypes(model, foreground=W[:foreground], background=W[foreground:]):
        model.encoder.logit_scale.data.fill_(float(np.log(1 / 0.03)))
        _, after, _ = model(pixels, names, mode="train")
    model.encoder.logit_scale.data.copy_(scale)
    _, again, _ = model(pixels, names, mode="train")
    moved = (before != after).float().mean(dim=(1, 2))
    for name, share in zip(names, moved.tolist(), strict=True):
        print(f"{name}: vision prototypes change {100 * share:.1f} % of WeCLIP's CAM labels")
    restored = "as before" if torch.equal(before, again) else "NOT as before"
    print(f"after the block WeCLIP's labels are {restored}")


def _photos(folder: Path) -> tuple[torch.Tensor, list[str]]:
    """Demo photographs as WeCLIP reads them; it takes the image labels from mask files."""
    masks = folder / "SegmentationClassAug"
    masks.mkdir()
    batch, names = [], []
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for item in demo_photos()[:PHOTOS]:
        photo = np.asarray(item.photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
        batch.append(torch.from_numpy((photo - mean) / std).permute(2, 0, 1).float())
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for row, label in enumerate(VOC.indices(item.labels)):
            mask[row] = label + 1
        # Only which values occur counts.
        Image.fromarray(mask).save(masks / f"{item.name}.png")
        names.append(item.name)
    return torch.stack(batch), names


@torch.no_grad()
def _features(encoder: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """(B * h * w, D) unit rows: the features that WeCLIP's GradCAM pools."""
    device = encoder.visual.proj.device
    tokens, _ = encoder.encode_image(pixels.to(device), SIDE, SIDE, require_all_fts=True)
    last, _ = encoder.visual.transformer.resblocks[-1](tokens[-1])
    patches = encoder.visual.ln_post(last.permute(1, 0, 2))[:, 1:] @ encoder.visual.proj
    return torch.nn.functional.normalize(patches.flatten(0, 1).float().cpu(), dim=1)


@contextmanager
def _importable(checkout: Path):
    """The checkout's modules first, and stand-ins for what it imports but does not use here."""
    stand_ins = {}
    if find_spec("mmcv") is None:
        stand_ins["mmcv"] = types.ModuleType("mmcv")
        stand_ins["mmcv.cnn"] = types.SimpleNamespace(ConvModule=None)
    if find_spec("pkg_resources") is None:
        import packaging.version

        stand_ins["pkg_resources"] = types.SimpleNamespace(packaging=packaging)
    for name in ("ttach",):
        if find_spec(name) is None:
            stand_ins[name] = types.ModuleType(name)
    # grad-cam is installed under the name that the checkout's own copy has.
    ours = [name for name in sys.modules if name.split(".")[0] in ("clip", "pytorch_grad_cam")]
    kept = {name: sys.modules.pop(name) for name in ours}
    with (
        mock.patch.dict(sys.modules, stand_ins),
        mock.patch.object(sys, "path", [str(checkout.resolve()), *sys.path]),
    ):
        yield
    sys.modules.update(kept)


@contextmanager
def _without_cuda():
    """WeCLIP calls .cuda() throughout; without a GPU that leaves things where they are."""
    if torch.cuda.is_available():
        yield
        return

    def stays(self, *args, **options):
        return self

    with (
        cpu_for_missing_cuda(),
        mock.patch.object(torch.Tensor, "cuda", stays),
        mock.patch.object(torch.nn.Module, "cuda", stays),
    ):
        yield


if __name__ == "__main__":
    sys.exit(main())
