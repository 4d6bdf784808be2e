"""Text against vision prototypes on photographs that packages ship."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es import (
    DEFAULT_ANCHOR,
    EncodedPhoto,
    SeedScores,
    encode_photo,
    learn_from_photos,
    photo_cams,
    seed_scores,
)
from vpl_plugin.adapters.clip_es.pixel_probabilities import pixel_probabilities
from vpl_plugin.clip import VOC, ClipModel, class_prototypes, load_clip
from vpl_plugin.experiments.demo.photos import DemoPhoto, demo_photos
from vpl_plugin.localization import (
    SegmentationMeter,
    pseudo_mask,
    resize_cams,
    write_mask,
)
from vpl_plugin.plots.explorer import (
    ExplorerPhoto,
    PhotoMaps,
    listed_photo,
    photo_data,
    picture_uri,
    write_report,
)
from vpl_plugin.plots.panels import PanelRow, save_curves, save_panel
from vpl_plugin.prototypes import Prototypes

__all__ = ["run_demo"]

logger = logging.getLogger(__name__)

TAU_I = 0.03
SOLVER = "apgd"
THRESHOLD = 0.4


class Rendered(NamedTuple):
    """What one set of prototypes gives on one photo.

    Attributes:
        cams: (K, H, W) refined, at the photo's size.
        mask: (H, W) uint8, the CRF's best class at each pixel.
        maps: what the report shows of it.
    """

    cams: Tensor
    mask: np.ndarray
    maps: PhotoMaps


class ReportRow(NamedTuple):
    """A line of the report's table."""

    name: str
    scores: SeedScores
    crf_miou: float


def run_demo(output: Path, device: str | None = None) -> None:
    """Learns vision prototypes on the photographs, and writes masks, pictures and a report.

    Args:
        output: folder for them; ``report.html`` is where to look.
        device: to compute on; None for CUDA where it is there.

    Raises:
        ImportError: a package that ships the photographs is missing.
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
    photos = demo_photos()
    output.mkdir(parents=True, exist_ok=True)
    model = load_clip("mini", device=device)
    text_prototypes = class_prototypes(model, VOC)
    encoded = [
        encode_photo(model, item.photo, VOC.indices(item.labels), name=item.name)
        for item in tqdm(photos, desc="encode", unit="photo")
    ]
    learned, fit = learn_from_photos(
        model,
        encoded,
        text_prototypes,
        TAU_I,
        threshold=THRESHOLD,
        pixels_per_photo=None,
        solver=SOLVER,
        progress=True,
    )
    pairs = [(photo, item.mask) for photo, item in zip(encoded, photos, strict=True)]
    rows, rendered = [], []
    for name, prototypes in (
        ("text prototypes", text_prototypes),
        ("vision prototypes", learned),
    ):
        scores = seed_scores(model, pairs, prototypes)
        drawn = [
            _render(model, item, photo, prototypes, scores.refined_power)
            for item, photo in zip(tqdm(photos, desc=name, unit="photo"), encoded, strict=True)
        ]
        rows.append(ReportRow(name, scores, _miou(photos, drawn)))
        rendered.append(drawn)

    for item, text, vision in zip(
        tqdm(photos, desc="panels", unit="photo"), *rendered, strict=True
    ):
        cams = [
            PanelRow(label, VOC.labels.index(label) + 1, *both)
            for label, *both in zip(item.labels, text.cams, vision.cams, strict=True)
        ]
        masks = [("text mask", text.mask), ("vision mask", vision.mask), ("true mask", item.mask)]
        save_panel(output / f"{item.name}.png", item.photo, cams, masks)
        write_mask(output / f"{item.name}_mask.png", vision.mask)
    save_curves(output / "curves.png", fit)
    learned.save(output / "prototypes.safetensors")
    about, below = _texts(
        model=model.name,
        photos=photos,
        rows=rows,
        pixels=sum(len(photo.features) for photo in encoded),
        solver=SOLVER,
        tau_I=TAU_I,
        anchor=DEFAULT_ANCHOR,
        threshold=THRESHOLD,
        passes=fit.passes,
        stop_reason=fit.stop_reason,
        seconds=time.perf_counter() - started,
        curves=picture_uri(output / "curves.png"),
    )
    title = f"Vision Prototype Learning on {len(photos)} photographs"
    listed = (_listed(*of_photo) for of_photo in zip(photos, *rendered, strict=True))
    write_report(output / "report.html", title, listed, about=about, below=below)
    for row in rows:
        logger.info(
            "%-18s seed mIoU raw %.1f, refined %.1f; mask mIoU %.1f; gap %.3f",
            row.name,
            100 * row.scores.raw,
            100 * row.scores.refined,
            100 * row.crf_miou,
            row.scores.gap,
        )
    logger.info("Look at %s", (output / "report.html").resolve())


def _render(
    model: ClipModel,
    item: DemoPhoto,
    photo: EncodedPhoto,
    prototypes: Prototypes,
    power: float,
) -> Rendered:
    cams = photo_cams(model, photo, prototypes)
    maps = resize_cams(cams.refined, photo.size)
    # Every pixel gets its best class: the true masks say where it is wrong.
    mask = pseudo_mask(np.asarray(item.photo), maps, photo.classes, power=power, confidence=0.0)
    probabilities = pixel_probabilities(
        photo.features, prototypes, photo.classes, 1 / model.logit_scale
    )
    of_grid = probabilities.unflatten(1, photo.tokens.grid)
    return Rendered(maps, mask, PhotoMaps(cams.refined, of_grid, mask))


def _listed(item: DemoPhoto, text: Rendered, vision: Rendered) -> dict[str, Any]:
    classes = [VOC.labels.index(label) + 1 for label in item.labels]
    kinds = {"text": text.maps, "vision": vision.maps}
    data = photo_data(ExplorerPhoto(item.photo, classes, kinds, item.mask))
    return listed_photo(item.name, item.labels, data, caption=item.source)


def _miou(photos: list[DemoPhoto], rendered: list[Rendered]) -> float:
    meter = SegmentationMeter(len(VOC.labels) + 1)
    for item, result in zip(photos, rendered, strict=True):
        meter.update(torch.tensor(result.mask), torch.tensor(item.mask))
    return meter.compute().miou


def _texts(**facts: object) -> tuple[str, str]:
    """The report's HTML above and below the photos."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("vpl_plugin.experiments.demo"), autoescape=True)
    about, below = environment.get_template("demo.html").render(**facts).split("<!-- photos -->")
    return about, below
