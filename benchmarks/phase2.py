"""What phase 2 saves, old against new in turn: a step, resizing in the loss, one pool of workers.

    python benchmarks/phase2.py [--repeat 3] [--photos 130] [--workers 2]

Step: processor time of an iteration on tokens at hand, forward and backward, the defaults as they
were (plain cross-entropy at every pixel, RSC of relu masks) and are. The network is the same.
Loss: processor time of Eq. 14 with the defaults, forward and backward, its maps resized by products
and by F.interpolate. Prediction: wall time of segmenting small noise photos with the dense CRF, one
pool of workers for all of them and one for each 64, as it was; needs the extra ``crf``. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpl_plugin.clip import load_clip
from vpl_plugin.core.vpl_loss import vpl_loss
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.checkpoints import Segmenter
from vpl_plugin.segmentation.decoder import Decoder
from vpl_plugin.segmentation.inference_settings import InferenceSettings
from vpl_plugin.segmentation.predictions import Target, Wanted, write_predictions
from vpl_plugin.segmentation.resizing import resize_maps
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import decoder_loss

GROUP = 64


def report(what: str, old: list[float], new: list[float]) -> None:
    before, after = statistics.median(old), statistics.median(new)
    print(f"{what}: {before:.3f} s before, {after:.3f} s now, {before / after:.2f} times as fast")


def compare_losses(repeat: int) -> None:
    """Six photos of 320 pixels on a grid of 20 x 20, 21 maps."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 21, 20, 20, generator=generator, requires_grad=True)
    embeddings = torch.randn(6, 256, 20, 20, generator=generator, requires_grad=True)
    masks = torch.randint(21, (6, 320, 320), generator=generator)
    labels = torch.rand(6, 45, generator=generator) < 0.05
    prototypes = torch.randn(45, 256, generator=generator)

    def interpolated(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def seconds(resize: Callable[[Tensor, tuple[int, int]], Tensor]) -> float:
        start = time.process_time()
        logits = resize(maps, (320, 320))
        vpl_loss(logits, masks, embeddings, prototypes, labels).total.backward()
        return time.process_time() - start

    runs = [(seconds(interpolated), seconds(resize_maps)) for _ in range(repeat + 1)][1:]
    report("loss, forward and backward", [old for old, _ in runs], [new for _, new in runs])


def compare_steps(repeat: int) -> None:
    """Six crops of 320 pixels with the default decoder on the embedded model's tokens."""
    model = load_clip("mini", device="cpu")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 2, 400, model.token_width, generator=generator)
    masks = torch.randint(21, (6, 320, 320), generator=generator, dtype=torch.uint8)
    labels = torch.rand(6, 20, generator=generator) < 0.1
    rows = torch.randn(45, model.embed_dim, generator=generator)
    prototypes = Prototypes(rows, tuple(map(str, range(20))))
    now = TrainingSettings()
    before = TrainingSettings(
        ce="plain", lambda_rsc=1.0, activation="relu", centred=False, mask_stride=1
    )
    size = {"width": now.width, "layers": now.layers, "heads": now.heads}
    decoder = Decoder.for_model(model, prototypes, (0, 1), **size)

    def seconds(settings: TrainingSettings) -> float:
        start = time.process_time()
        output = decoder(tokens, (20, 20))
        decoder_loss(output, masks, labels, decoder.prototypes, settings).total.backward()
        return time.process_time() - start

    runs = [(seconds(before), seconds(now)) for _ in range(repeat + 1)][1:]
    report("step, forward and backward", [old for old, _ in runs], [new for _, new in runs])


def compare_predictions(repeat: int, photos: int, workers: int) -> None:
    """All photos in one call, and in calls of 64 with a pool each."""
    model = load_clip("mini", device="cpu")
    torch.manual_seed(0)
    names = tuple(map(str, range(20)))
    prototypes = Prototypes(torch.randn(21, model.embed_dim), names)
    decoder = Decoder.for_model(model, prototypes, (0, 1), width=32, layers=1, heads=2).eval()
    segmenter = Segmenter(model, decoder.requires_grad_(False), (0, 1), names)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(photos):
            pixels = rng.integers(256, size=(96, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")

        def seconds(group: int, kind: str) -> float:
            wanted = [
                Wanted(folder / f"{n}.png", (Target(folder / kind / f"{n}.png", crf=True),))
                for n in range(photos)
            ]
            failures: dict[Path, str] = {}
            start = time.perf_counter()
            for first in range(0, photos, group):
                part = wanted[first : first + group]
                write_predictions(segmenter, part, InferenceSettings(), failures, workers=workers)
            assert not failures
            return time.perf_counter() - start

        runs = [
            (seconds(GROUP, f"old{turn}"), seconds(photos, f"new{turn}")) for turn in range(repeat)
        ]
    report(
        f"prediction of {photos} photos with CRF, {workers} workers",
        [old for old, _ in runs],
        [new for _, new in runs],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--photos", type=int, default=130)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare_steps(max(3, arguments.repeat))
    compare_losses(max(3, arguments.repeat))
    compare_predictions(arguments.repeat, arguments.photos, arguments.workers)


if __name__ == "__main__":
    main()
