"""How much faster CAMs and their affinity are than one class at a time, as CLIP-ES runs them.

Both run on the same photo, the same tokens before the last block and the same weights, in turn, in
the same process:

    python benchmarks/localization.py [--device cuda] [--threads 1] [--repeat 9]

The reference runs the last block forward and backward for every class, and repeats Sinkhorn's
rounds and squares the transition matrix for every class. Prints the median milliseconds a photo of
each, CAM and affinity stages only, after checking in float64 that their maps are equal. "mini" has
its own weights, "ViT-B-16" random ones.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.clip import ClipModel, VisionTokens, load_clip
from vpl_plugin.localization import box_masks, grad_cam, mean_attention, min_max, refine_cams
from vpl_plugin.prototypes import Prototypes

NUM_FOREGROUND = 20
NUM_BACKGROUND = 25
# A photo of VOC's usual 375 x 500 pixels, in patches of 16.
HEIGHT, WIDTH = 384, 512
CLASS_COUNTS = (1, 2, 4)
# Of the check in float64. In float32 random weights spread maps so evenly that the stretch to
# [0, 1] after the affinity enlarges rounding to about 1e-3.
TOLERANCE = 1e-8

Maps = tuple[Tensor, Tensor]


def ours(model: ClipModel, tokens: VisionTokens, prototypes: Tensor, num_classes: int) -> Maps:
    """CAMs and refined CAMs, (K, h, w), of the first K classes at once."""
    classes = [list(range(num_classes))]
    names = tuple(map(str, range(NUM_FOREGROUND)))
    output = grad_cam(model, tokens, Prototypes(prototypes, names), classes)
    attention = mean_attention(tokens.attention, output.attention)
    return output.cams[0], refine_cams(output.cams, attention)[0]


def one_class_at_a_time(
    model: ClipModel, tokens: VisionTokens, prototypes: Tensor, num_classes: int
) -> Maps:
    """The same maps, with everything anew for each class."""
    shown = F.normalize(torch.cat([prototypes[:num_classes], prototypes[NUM_FOREGROUND:]]), dim=1)
    maps = []
    for index in range(num_classes):
        activations = model.last_block_norm(tokens.tokens).detach().requires_grad_()
        output, last_attention = model.after_norm(tokens.tokens, activations)
        embedding = F.normalize(model.project(output).mean(dim=1), dim=1)
        probabilities = (model.logit_scale * embedding @ shown.T).softmax(dim=1)
        (gradient,) = torch.autograd.grad(probabilities[0, index], activations)
        with torch.no_grad():
            weights = gradient[0, 1:].mean(dim=0)
            cam = (activations[0, 1:] @ weights).clamp(min=0).unflatten(0, tokens.grid)
            cam = min_max(min_max(cam))
            if index == 0:
                attention = mean_attention(tokens.attention, last_attention.detach())[0]
            transition = attention
            for _ in range(3):
                transition = transition / transition.sum(dim=0, keepdim=True)
                transition = transition / transition.sum(dim=1, keepdim=True)
            transition = (transition + transition.T) / 2
            transition = transition @ transition
            transition = transition * box_masks(cam[None])[0].flatten()
            refined = min_max((transition @ cam.flatten()).unflatten(0, tokens.grid))
        maps.append((cam, refined))
    cams, refined_cams = zip(*maps, strict=True)
    return torch.stack(cams), torch.stack(refined_cams)


def example_photo() -> np.ndarray:
    """Smooth blobs of colour, (HEIGHT, WIDTH, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(1, 3, 6, 8, generator=generator)
    photo = F.interpolate(blobs, size=(HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 1)
    return (255 * photo).byte().permute(1, 2, 0).numpy()


def milliseconds(run: partial[Maps], device: torch.device) -> float:
    """The time of one run, the device's work included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def largest_difference(some: Maps, others: Maps) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; its own by default")
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    print(
        f"{HEIGHT} x {WIDTH} pixels on {device}, {torch.get_num_threads()} thread(s),"
        f" median of {arguments.repeat}, ms a photo"
    )
    print("model     classes  one at a time  vpl_plugin   ratio  difference in float64, float32")
    for name, source in (("mini", {}), ("ViT-B-16", {"pretrained": None})):
        model = load_clip(name, device=device, **source)
        pixels = model.preprocess(example_photo())[None]
        tokens = model.tokens_before_last_block(pixels)
        exact = load_clip(copy.deepcopy(model.module), dtype=torch.float64, device=device)
        exact_tokens = exact.tokens_before_last_block(pixels.double())
        prototypes = torch.randn(NUM_FOREGROUND + NUM_BACKGROUND, model.embed_dim).to(device)
        for count in CLASS_COUNTS:
            ways = (one_class_at_a_time, ours)
            difference = largest_difference(
                *(way(exact, exact_tokens, prototypes.double(), count) for way in ways)
            )
            if difference > TOLERANCE:
                raise SystemExit(f"{name}, {count} classes: the maps differ by {difference:.2g}")
            runs = [partial(way, model, tokens, prototypes, count) for way in ways]
            in_float32 = largest_difference(*(run() for run in runs))
            # In turn, so that what else the machine does falls on both.
            times = [[milliseconds(run, device) for run in runs] for _ in range(arguments.repeat)]
            reference, fast = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"{name:9s} {count:7d} {reference:14.1f} {fast:11.1f} {reference / fast:6.2f}x"
                f"  {difference:.1e}  {in_float32:.1e}"
            )


if __name__ == "__main__":
    main()
