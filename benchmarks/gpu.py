"""What a GPU gains, as ratios of two ways in turn on the same machine; writes a page.

    make gpu
    python benchmarks/gpu.py [--device cuda] [--output docs/gpu.md] [--repeat 5] [--small]

Phase 1: a pass over the pixels and a whole run, against the loop of InMaP's ``image_opt`` in plain
PyTorch (softmax, gradient, step, normalise), features in float32 and bfloat16. CAMs: photos in
batches against one at a time, ViT-B/16 with random weights. CRF: a batch of photos against one
process of pydensecrf2 (left out where it is not installed). Training: a step of the default decoder
in bfloat16 against float32. Photos and features are synthetic; ``--small`` is for a look at the
script itself, on any device.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin import fit_vision_prototypes
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.clip import load_clip
from vpl_plugin.localization import dense_crf, grad_cam, mean_attention, refine_cams
from vpl_plugin.localization.crf import reference_backend
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation.decoder import Decoder
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import decoder_loss

TAU_T, TAU_I, ALPHA = 0.01, 0.03, 10.0
# What is measured, the old way, the new one: seconds of each.
Row = tuple[str, float, float]


def medians(ways: list[Callable[[], object]], device: torch.device, repeat: int) -> list[float]:
    """Median seconds of each way; in turn, so that what else the machine does falls on all."""
    times: list[list[float]] = []
    for _ in range(repeat + 1):
        row = []
        for way in ways:
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            row.append(time.perf_counter() - start)
        times.append(row)
    # The first round compiles kernels and fills caches.
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def eager_loop(features: Tensor, text: Tensor, iterations: int) -> Tensor:
    """Alg. 1 as its public relative writes it: targets, softmax, gradient, step, normalise."""
    targets = (features @ text.T / TAU_T).softmax(dim=1)
    rows, step, last = text.clone(), ALPHA, float("inf")
    for _ in range(iterations):
        slope = (features @ rows.T / TAU_I).softmax(dim=1) - targets
        gradient = slope.T @ features / (len(features) * TAU_I)
        norm = float(gradient.norm())
        if norm > last:
            step /= 2
        last = norm
        rows = F.normalize(rows - step * gradient, dim=1)
    return rows


def phase1(device: torch.device, repeat: int, small: bool) -> Iterator[Row]:
    pixels, iterations = (2_000, 20) if small else (500_000, 200)
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(512, generator=generator)
    features = F.normalize(torch.randn(pixels, 512, generator=generator) + shared, dim=1).to(device)
    text = F.normalize(torch.randn(45, 512, generator=generator) - shared, dim=1).to(device)
    fit = partial(fit_vision_prototypes, tau_I=TAU_I, tolerance=0.0)
    halving = {"solver": "pgd_halving", "iterations": iterations}
    old, in_float32, in_bfloat16, default = medians(
        [
            partial(eager_loop, features, text, iterations),
            partial(fit, features, text, **halving),
            partial(fit, features.bfloat16(), text, **halving),
            partial(fit_vision_prototypes, features, text, TAU_I),
        ],
        device,
        repeat,
    )
    what = f"phase 1, {iterations} passes over {pixels} x 512 features, 45 classes"
    yield f"{what}, pgd_halving in float32", old, in_float32
    yield f"{what}, pgd_halving on bfloat16 features", old, in_bfloat16
    yield (
        "phase 1, 3,000 passes of the loop (reckoned) against apgd until it stops",
        (old * 3000 / iterations),
        default,
    )


def cams(device: torch.device, repeat: int, small: bool) -> Iterator[Row]:
    count, size = (2, (64, 96)) if small else (16, (384, 512))
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_clip("ViT-B-16", None, device=device, dtype=dtype)
        photos = torch.randn(count, 3, *size, device=device, dtype=dtype)
        rows = F.normalize(torch.randn(45, model.embed_dim, device=device, dtype=dtype), dim=1)
        prototypes = Prototypes(rows, tuple(map(str, range(20))))

        def some(batch: Tensor, model: object = model, held: Prototypes = prototypes) -> None:
            tokens = model.tokens_before_last_block(batch)
            output = grad_cam(model, tokens, held, [[0, 1]] * len(batch))
            refine_cams(output.cams, mean_attention(tokens.attention, output.attention))

        def each(photos: Tensor = photos, some: Callable[[Tensor], None] = some) -> None:
            for photo in photos:
                some(photo[None])

        old, new = medians([each, partial(some, photos)], device, repeat)
        name = str(dtype).removeprefix("torch.")
        yield f"CAMs of {count} photos of {size[0]} x {size[1]}, 2 classes, {name}", old, new


def crf(device: torch.device, repeat: int, small: bool) -> Iterator[Row]:
    if reference_backend() is None:
        return
    count, size = (2, (40, 60)) if small else (8, (375, 500))
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(count, 3, 6, 8, generator=generator)
    photos = (255 * F.interpolate(blobs, size, mode="bicubic").clamp(0, 1)).byte()
    photos = photos.permute(0, 2, 3, 1).contiguous().numpy()
    maps = F.interpolate(4 * torch.rand(count, 3, 6, 8, generator=generator), size)
    shares = maps.softmax(dim=1).numpy()

    def one_process() -> None:
        for photo, share in zip(photos, shares, strict=True):
            dense_crf(photo, share, backend="pydensecrf")

    batch = partial(dense_crf, photos, shares, backend="torch", device=device)
    old, new = medians([one_process, batch], device, repeat)
    yield f"dense CRF of {count} photos of {size[0]} x {size[1]}, against pydensecrf2", old, new


def training(device: torch.device, repeat: int, small: bool) -> Iterator[Row]:
    side = 4 if small else 20
    settings = TrainingSettings()
    torch.manual_seed(0)
    model = load_clip("ViT-B-16", None, device=device)
    rows = F.normalize(torch.randn(45, model.embed_dim, device=device), dim=1)
    prototypes = Prototypes(rows, tuple(map(str, range(20))))
    decoder = Decoder.for_model(model, prototypes, (2, 5, 8, 11)).to(device)
    tokens = torch.randn(6, 4, side * side, model.token_width, device=device)
    masks = torch.randint(21, (6, 16 * side, 16 * side), device=device, dtype=torch.uint8)
    labels = torch.rand(6, 20, device=device) < 0.1

    def step(enabled: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            output = decoder(tokens, (side, side))
        loss = decoder_loss(output, masks, labels, decoder.prototypes, settings)
        loss.total.backward()
        decoder.zero_grad(set_to_none=True)

    old, new = medians([partial(step, False), partial(step, True)], device, repeat)
    yield f"a training step, 6 crops of {16 * side} pixels, float32 against bfloat16", old, new


def page(rows: list[Row], device: torch.device) -> str:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    lines = [
        "# On a GPU",
        "",
        f"Written by `make gpu`: {card or device}, PyTorch {torch.__version__}, CUDA"
        f" {torch.version.cuda}, Python {platform.python_version()}. Medians in turn in one run;"
        " the head of `benchmarks/gpu.py` says what is compared.",
        "",
        "| what | before, s | now, s | ratio |",
        "|---|---|---|---|",
        *(f"| {what} | {old:.4f} | {new:.4f} | {old / new:.2f} |" for what, old, new in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="the page (default: print it)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; what runs on a CPU: make bench")
    rows: list[Row] = []
    for part in (phase1, cams, crf, training):
        for row in part(device, arguments.repeat, arguments.small):
            rows.append(row)
            what, old, new = row
            print(f"{what}: {old:.4f} s before, {new:.4f} s now, {old / new:.2f} times as fast")
    text = page(rows, device)
    if arguments.output is None:
        print(f"\n{text}")
        return
    with whole_file(arguments.output) as part_file:
        part_file.write_text(text)


if __name__ == "__main__":
    main()
