"""How much faster "apgd" reaches the objective of 3,000 "pgd_halving" steps.

Both run on the same pixels in the same process:

    python benchmarks/solvers.py [--pixels 60000] [--steps 3000] [--device cuda]

The features are clustered and lie in one cone, across a modality gap from the text prototypes, as
CLIP's pixel features do; their second moment falls off like a power law. Prints the ratio of the
two times, and of the passes over the data.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin import fit_vision_prototypes, learn_vision_prototypes
from vpl_plugin.core.prototypes import Iterate


def clip_like_features(
    pixels: int, dim: int, classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Unit features (P, D) of ``classes`` clusters, and text prototypes (N, D) across a gap."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1) ** -0.5
    cone = 2.0 * F.normalize(torch.randn(dim, generator=generator), dim=0)
    centres = torch.randn(classes, dim, generator=generator) * spectrum
    centres = 1.5 * F.normalize(centres, dim=1)
    labels = torch.randint(classes, (pixels,), generator=generator)
    noise = torch.randn(pixels, dim, generator=generator) * spectrum
    features = F.normalize(cone + centres[labels] + 1.5 * F.normalize(noise, dim=1), dim=1)
    shared = F.normalize(torch.randn(dim, generator=generator), dim=0)
    text = F.normalize(0.3 * F.normalize(centres, dim=1) + shared, dim=1)
    return features.to(device), text.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--classes", type=int, default=45)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    features, text = clip_like_features(arguments.pixels, arguments.dim, arguments.classes, device)
    learn_vision_prototypes(features, text, iterations=2, tolerance=0.0)

    start = time.perf_counter()
    reference = fit_vision_prototypes(
        features, text, solver="pgd_halving", iterations=arguments.steps, tolerance=0.0
    )
    objective = float(reference.losses[-1])
    reference_time = time.perf_counter() - start

    def reached(iterate: Iterate) -> bool:
        return bool(iterate.loss <= objective)

    start = time.perf_counter()
    fit = fit_vision_prototypes(features, text, solver="apgd", callback=reached, tolerance=0.0)
    fit_time = time.perf_counter() - start
    print(
        f"{arguments.pixels} pixels x {arguments.dim} x {arguments.classes} classes on {device},"
        f" loss at W_0 {float(reference.losses[0]):.4f}"
    )
    for name, run, seconds in (
        ("pgd_halving", reference, reference_time),
        ("apgd", fit, fit_time),
    ):
        print(
            f"{name:12s} loss {float(run.losses[-1]):.4f}  gap {float(run.gaps[-1]):.3f}"
            f"  {run.passes:5d} passes  {seconds:8.2f} s  ({run.stop_reason})"
        )
    print(
        f"apgd is {reference_time / fit_time:.1f} times faster,"
        f" with {reference.passes / fit.passes:.1f} times fewer passes"
    )


if __name__ == "__main__":
    main()
