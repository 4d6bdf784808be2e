"""The stage ``cams`` from kept tokens against encoding again: time, disk, and the CAMs.

    python benchmarks/kept_tokens.py --root VOCdevkit/VOC2012 --split train.txt
        [--model mini] [--random] [--photos 40] [--rounds 2] [--workers 2] [--forms]

Text prototypes, photos in VOC's layout, labels from the masks; the embedded model, or another by
its open_clip name, with random weights where its own are not at hand: its time and disk are the
same. The two ways run in turn, each round into empty folders, and so does the stage ``seeds``,
which pays for what is kept. Where others use the machine, wall time tells little: CPU time is that
of all threads.

``--forms`` compares instead the forms in which tokens and attention could be kept: the largest
difference of a CAM to that of encoding again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import token_cams
from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.clip_es.stages import CAMs, Seeds
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.adapters.photos.photo_set import PhotoSet
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip import ClipModel, class_prototypes, load_clip, open_photo


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def random_model(name: str) -> ClipModel:
    """A model of open_clip before any training."""
    import open_clip

    torch.manual_seed(0)
    return load_clip(open_clip.create_model(name, pretrained=None), device="cpu")


def levels(x: Tensor) -> Tensor:
    """In 16 bits of each row's largest."""
    step = x.amax(dim=-1, keepdim=True) / 65535
    return (x / step).round() * step


FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "float32, float32": (lambda x: x, lambda x: x),
    "float32, roots in 16 bits of each row's largest": (
        lambda x: x,
        lambda x: levels(x.sqrt()) ** 2,
    ),
    "float32, float16": (lambda x: x, lambda x: x.half().float()),
    "float32, 16 bits of each row's largest": (lambda x: x, levels),
    "float32, bfloat16": (lambda x: x, lambda x: x.bfloat16().float()),
    "float16, float32": (lambda x: x.half().float(), lambda x: x),
}


def compare_forms(model: ClipModel, photos: PhotoSet) -> None:
    """Prints the largest differences of raw and refined CAMs."""
    text = class_prototypes(model, photos.names)
    found = {name: [0.0, 0.0] for name in FORMS}
    for item in tqdm(photos.photos, unit="photo"):
        pixels = model.preprocess(open_photo(item.photo))[None]
        tokens = model.tokens_before_last_block(pixels)
        ((cams, _),) = token_cams(model, tokens, [item.classes], text)
        blocks = tokens.attention.shape[1]
        for name, (of_tokens, of_attention) in FORMS.items():
            mean = of_attention(tokens.attention.mean(dim=1))
            kept = tokens._replace(
                tokens=of_tokens(tokens.tokens), attention=mean[:, None].expand(-1, blocks, -1, -1)
            )
            ((ours, _),) = token_cams(model, kept, [item.classes], text)
            for which, (one, other) in enumerate(zip(ours[:2], cams[:2], strict=True)):
                found[name][which] = max(found[name][which], float((one - other).abs().max()))
    print(f"\n{len(photos.photos)} photos, {model.name}: tokens, attention: raw, refined")
    for name, (raw, refined) in found.items():
        print(f"{name}: {raw:.1e}, {refined:.1e}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--photos", type=int, help="so many from all over the split")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--forms", action="store_true", help="compare forms of keeping them")
    options = parser.parse_args()

    random = options.random
    model = random_model(options.model) if random else load_clip(options.model, device="cpu")
    photos = voc_photos(options.root, options.split, labels="masks")
    step = max(1, len(photos.photos) // (options.photos or len(photos.photos)))
    photos = photos._replace(photos=photos.photos[::step][: options.photos])
    if options.forms:
        compare_forms(model, photos)
        return
    count = len(photos.photos)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for way, keep in (("encoded again", False), ("kept", True)):
                output = Path(folder) / f"{way} {number}"
                settings = Settings(
                    output, prototypes="text", keep_tokens=keep, workers=options.workers
                )
                run = Run(photos, settings, model)
                for stage in (Seeds(), CAMs()):
                    took = timed(lambda stage=stage, run=run: stage.run(run))
                    times.setdefault((stage.name, way), []).append(took)
                    print(f"{stage.name}, {way}: {took[0]:.1f} s, CPU {took[1]:.1f} s", flush=True)
        first, kept = (Path(folder) / f"{way} 0" for way in ("encoded again", "kept"))
        raw = refined = 0.0
        for item in photos.photos:
            one, other = (read_cams(way / f"text/cams/{item.name}.npz") for way in (first, kept))
            raw = max(raw, float((one.raw - other.raw).abs().max()))
            refined = max(refined, float((one.refined - other.refined).abs().max()))
        size = sum(file.stat().st_size for file in (kept / "tokens").glob("*.npz"))

    print(f"\n{count} photos, {model.name}{' (random weights)' if random else ''}")
    for (stage, way), took in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*took, strict=True))
        print(f"{stage}, {way}: {wall / count:.3f} s, CPU {cpu / count:.3f} s per photo")
    print(f"{size / count / 1e6:.2f} MB per photo")
    print(f"largest difference of a CAM: raw {raw:.1e}, refined {refined:.1e}")


if __name__ == "__main__":
    main()
