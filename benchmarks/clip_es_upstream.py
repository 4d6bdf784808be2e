"""How much faster the CAM and affinity stages are than the unmodified ``perform()`` of CLIP-ES.

Both go from a photo's file to upstream's .npy file, with the same weights, in turn, photo by photo,
in one process:

    python benchmarks/clip_es_upstream.py CLIP-ES VOC2012 --split train.txt [--photos 40]
        [--model mini] [--threads 1]

CLIP-ES is a checkout of linyq2117/CLIP-ES; VOC2012 holds JPEGImages and SegmentationClass, whose
masks say which classes a photo shows. The model is "mini", or "random" for a ViT-B/16 of upstream's
class with random weights. Prints milliseconds a photo by the number of classes, the blocks of the
encoder before the last apart, and the largest difference of the files.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vpl_plugin.adapters.clip_es.cams import batch_cams
from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams, write_upstream_cams
from vpl_plugin.adapters.clip_es.upstream.encoder import load_encoder
from vpl_plugin.adapters.clip_es.upstream.perform import import_script
from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS
from vpl_plugin.adapters.datasets import voc_photos
from vpl_plugin.adapters.retrofit.devices import cpu_for_missing_cuda
from vpl_plugin.adapters.retrofit.imports import import_from
from vpl_plugin.clip import VOC, load_clip
from vpl_plugin.clip.preprocess import open_photo
from vpl_plugin.localization.seeds import resize_cams
from vpl_plugin.prototypes import Prototypes


class Stopwatch:
    """Seconds spent in a function, so that they can be told apart from the rest."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._function = function

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls the function."""
        start = time.perf_counter()
        result = self._function(*args, **options)
        self.seconds += time.perf_counter() - start
        return result


def timed(run: Callable[[], None], encoder: Stopwatch) -> tuple[float, float]:
    """Milliseconds of the encoder, and of all else."""
    before, start = encoder.seconds, time.perf_counter()
    run()
    total = time.perf_counter() - start
    encoding = encoder.seconds - before
    return 1000 * encoding, 1000 * (total - encoding)


def write_annotation(path: Path, photo: Any, classes: list[int]) -> None:
    """The parts of VOC's annotation that upstream reads."""
    objects = "".join(f"<object><name>{VOC.labels[index]}</name></object>" for index in classes)
    path.write_text(
        f"<annotation><size><width>{photo.width}</width><height>{photo.height}</height></size>"
        f"{objects}</annotation>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of CLIP-ES")
    parser.add_argument("root", type=Path, help="VOC2012")
    parser.add_argument("--split", required=True, help="names of photos, one per line")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--model", choices=("mini", "random"), default="mini")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; its own by default")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    photos = voc_photos(
        arguments.root, arguments.split, labels="masks", masks="SegmentationClass"
    ).photos
    photos = photos[:: max(1, len(photos) // arguments.photos)][: arguments.photos]
    with tempfile.TemporaryDirectory() as temporary, cpu_for_missing_cuda():
        measure(arguments, photos, Path(temporary))


def measure(arguments: argparse.Namespace, photos: Any, folder: Path) -> None:
    checkout = arguments.checkout.resolve()
    import_from(checkout, folder)
    script = import_script(checkout, SCRIPTS["voc12"])
    if arguments.model == "mini":
        upstream: Any = load_encoder("mini", script.clip, "cpu")
    else:
        upstream = script.clip.model.CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12).eval()
    # A copy, as upstream's GradCAM hangs its hooks on the model.
    source = "mini" if arguments.model == "mini" else copy.deepcopy(upstream)
    model: Any = load_clip(source, device="cpu")
    script.device = "cpu"
    templates = ["a clean origami {}."]
    background = script.zeroshot_classifier(script.BACKGROUND_CATEGORY, templates, upstream)
    foreground = script.zeroshot_classifier(script.new_class_names, templates, upstream)
    cam = script.GradCAM(
        model=upstream,
        target_layers=[upstream.visual.transformer.resblocks[-1].ln_1],
        reshape_transform=script.reshape_transform,
    )
    upstream.encode_image = Stopwatch(upstream.encode_image)
    script.tqdm = list

    model.tokens_before_last_block = Stopwatch(model.tokens_before_last_block)
    names = tuple(map(str, range(len(foreground))))
    prototypes = Prototypes(torch.cat([foreground, background]).detach(), names)
    for name in ("JPEGImages", "Annotations", "upstream", "ours"):
        (folder / name).mkdir()
    settings = SimpleNamespace(img_root=str(folder / "JPEGImages"), cam_out_dir=folder / "upstream")

    def theirs(name: str) -> None:
        # Gradients are what upstream's GradCAM runs on.
        with torch.enable_grad():
            script.perform(0, [[f"{name}.jpg"]], settings, upstream, background, foreground, cam)

    def ours(name: str, classes: list[int]) -> None:
        photo = open_photo(folder / "JPEGImages" / f"{name}.jpg")
        ((cams, _),) = batch_cams(
            model,
            model.preprocess(photo)[None],
            [classes],
            prototypes,
            position_dtype=torch.float16,
        )
        resized = resize_cams(cams.refined, (photo.height, photo.width)).numpy()
        write_upstream_cams(folder / "ours" / f"{name}.npy", classes, resized)

    times: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    largest = 0.0
    for number, item in enumerate(tqdm([photos[0], *photos], unit="photo")):
        classes = list(item.classes)
        jpeg = folder / "JPEGImages" / f"{item.name}.jpg"
        if not jpeg.exists():
            jpeg.symlink_to(item.photo.resolve())
        write_annotation(folder / "Annotations" / f"{item.name}.xml", open_photo(jpeg), classes)
        reference = timed(lambda name=item.name: theirs(name), upstream.encode_image)
        own = timed(
            lambda name=item.name, classes=classes: ours(name, classes),
            model.tokens_before_last_block,
        )
        files = (folder / way / f"{item.name}.npy" for way in ("upstream", "ours"))
        maps = [read_upstream_cams(file)[1].astype(np.float32) for file in files]
        largest = max(largest, float(np.abs(maps[0] - maps[1]).max()))
        # The first photo warms up.
        if number:
            times[len(classes)].append((*reference, *own))
    print(
        f"{arguments.model}, {torch.get_num_threads()} thread(s), median ms a photo;"
        f" refined CAMs differ by at most {largest:.1g}"
    )
    print(
        "classes photos   encoder: upstream  ours   ratio   CAM, affinity: upstream  ours   ratio"
    )
    rows = sorted(times.items())
    everything = [row for _, group in rows for row in group]
    for name, group in [*((str(count), group) for count, group in rows), ("all", everything)]:
        middle = [statistics.median(column) for column in zip(*group, strict=True)]
        print(
            f"{name:>7s} {len(group):6d}"
            f" {middle[0]:18.0f} {middle[2]:7.0f} {middle[0] / middle[2]:6.2f}x"
            f" {middle[1]:22.0f} {middle[3]:7.0f} {middle[1] / middle[3]:6.2f}x"
        )
    mean = [statistics.fmean(column) for column in zip(*everything, strict=True)]
    print(
        f"mean: CAM and affinity {mean[1]:.0f} / {mean[3]:.0f} ms = {mean[1] / mean[3]:.2f}x,"
        f" whole photo {(mean[0] + mean[1]) / (mean[2] + mean[3]):.2f}x"
    )


if __name__ == "__main__":
    main()
