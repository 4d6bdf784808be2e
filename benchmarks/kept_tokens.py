"""The stage ``cams`` from kept tokens against encoding again: time, disk, and the CAMs.

    python benchmarks/kept_tokens.py --root VOCdevkit/VOC2012 --split train.txt
        [--model mini] [--random] [--photos 40] [--rounds 2] [--workers 2]

Text prototypes, photos in VOC's layout, labels from the masks; the embedded model, or another by
its open_clip name, with random weights where its own are not at hand: its time and disk are the
same. The two ways run in turn, each round into empty folders, and so does the stage ``seeds``,
which pays for what is kept. Where others use the machine, wall time tells little: CPU time is that
of all threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vpl_plugin.adapters.clip_es.settings import Settings
from vpl_plugin.adapters.clip_es.stage_files import read_cams
from vpl_plugin.adapters.clip_es.stages import CAMs, Seeds
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.adapters.pipeline.run import Run
from vpl_plugin.clip import ClipModel, load_clip


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def random_model(name: str) -> ClipModel:
    """A model of open_clip before any training."""
    import open_clip

    return load_clip(open_clip.create_model(name, pretrained=None), device="cpu")


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
    options = parser.parse_args()

    random = options.random
    model = random_model(options.model) if random else load_clip(options.model, device="cpu")
    photos = voc_photos(options.root, options.split, labels="masks")
    step = max(1, len(photos.photos) // (options.photos or len(photos.photos)))
    photos = photos._replace(photos=photos.photos[::step][: options.photos])
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
