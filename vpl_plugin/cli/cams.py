"""``vpl cams``: CAMs and masks for a folder of the user's own photos."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_es import (
    DEFAULT_ANCHOR,
    EncodedPhoto,
    PhotoCAMs,
    encode_photo,
    learn_from_photos,
    photo_cams,
)
from vpl_plugin.adapters.clip_es.stages.cams import read_prototypes
from vpl_plugin.adapters.datasets import PhotoSet, SetPhoto, folder_photos
from vpl_plugin.adapters.datasets.photo_files import skipped_files
from vpl_plugin.adapters.prototype_files import save_prototypes
from vpl_plugin.atomic_files import whole_file
from vpl_plugin.cli.class_option import class_names
from vpl_plugin.cli.model_options import add_model_arguments, load_model, model_source
from vpl_plugin.cli.panels import PanelRow, save_panel
from vpl_plugin.cli.text_options import TEXT_OPTIONS, add_text_arguments, changed_texts, own_texts
from vpl_plugin.clip import (
    BrokenPhotoError,
    ClassNames,
    ClipModel,
    class_prototypes,
    open_photo,
)
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.core.checks import (
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
)
from vpl_plugin.localization import cams_to_labels, pseudo_mask, resize_cams, write_mask
from vpl_plugin.run_folder import claim_folder

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

PROTOTYPES = "prototypes.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``vpl cams``."""
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument(
        "--classes", required=True, help='"voc", "coco", or class names with commas between'
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the header photo,labels; labels with semicolons between"
        " (default: the sub-folder's name is the label)",
    )
    parser.add_argument("--output", type=Path, default=Path("vpl_cams"), help="folder to write")
    add_model_arguments(parser)
    parser.add_argument(
        "--prototypes",
        default="vision",
        help='"vision" (learned from these photos), "text", or a .safetensors of an earlier run',
    )
    parser.add_argument("--tau-I", type=float, default=0.03, help="temperature (default: 0.03)")
    parser.add_argument(
        "--anchor",
        type=float,
        default=DEFAULT_ANCHOR,
        help=f"weight of the prior at the text prototypes, 0 for none (default: {DEFAULT_ANCHOR})",
    )
    parser.add_argument("--threshold", type=float, default=0.4, help="Phi (default: 0.4)")
    parser.add_argument(
        "--pixels-per-photo", type=int, default=128, help="drawn from each photo (default: 128)"
    )
    parser.add_argument(
        "--power", type=float, default=1.0, help="of the background score (default: 1)"
    )
    parser.add_argument("--crf", action="store_true", help="sharpen the masks with a dense CRF")
    parser.add_argument("--no-panels", action="store_true", help="write no pictures")
    add_text_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes CAMs, masks and panels, resumes. Returns the exit code: 1 where a photo failed."""
    _check(arguments)
    of_set = class_names(arguments.classes)
    names = own_texts(of_set, arguments)
    listed = folder_photos(arguments.photos, names, arguments.labels)
    photos, failures = listed.photos, listed.failures
    if listed.skipped:
        logger.info("%s: skipped %s", arguments.photos, skipped_files(listed.skipped))
    if not photos:
        raise ValueError(f"there is no photo whose labels are known: {listed.why_empty()}")
    output: Path = arguments.output
    claim_folder(output, {**_settings(arguments), "texts": changed_texts(names, of_set)})
    model = load_model(arguments)
    Z = class_prototypes(model, names)

    try:
        prototypes, temperature = _prototypes(arguments, model, listed, Z)
        todo = [item for item in photos if not _is_done(output, item, arguments)]
        logger.info("%d photos, %d of them done before", len(photos), len(photos) - len(todo))
        for item, photo, encoded in _encode(model, todo, failures, "CAMs"):
            cams = photo_cams(
                model,
                encoded,
                prototypes,
                num_foreground=len(names.labels),
                temperature=temperature,
                box_threshold=names.box_threshold,
            )
            text = None
            if not arguments.no_panels:
                text = photo_cams(
                    model,
                    encoded,
                    Z,
                    num_foreground=len(names.labels),
                    box_threshold=names.box_threshold,
                )
            _write(output, arguments, names, item, photo, encoded, cams, text)
    finally:
        for path, why in failures.items():
            logger.error("failed: %s: %s", path, why)
    logger.info(
        "%d photos are in %s", sum(item.photo not in failures for item in photos), output.resolve()
    )
    return 1 if failures else 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what would stop the run only after the photos are encoded."""
    check_positive("--tau-I", arguments.tau_I)
    check_not_negative("--anchor", arguments.anchor)
    check_fraction("--threshold", arguments.threshold)
    check_count("--pixels-per-photo", arguments.pixels_per_photo)
    check_positive("--power", arguments.power)
    output, photos = arguments.output.resolve(), arguments.photos.resolve()
    if arguments.labels is None and output.is_relative_to(photos):
        raise ValueError(
            f"--output {arguments.output} lies in the folder of photos, where a folder's name is a"
            " class: choose one outside"
        )


def _encode(
    model: ClipModel, photos: list[SetPhoto], failures: dict[Path, str], task: str
) -> Iterator[tuple[SetPhoto, Image.Image, EncodedPhoto]]:
    """Encodes photo by photo; a broken one is noted and passed over."""
    for item in tqdm(photos, desc=task, unit="photo"):
        try:
            photo = open_photo(item.photo)
            encoded = encode_photo(model, photo, item.classes, name=item.name)
        except (BrokenPhotoError, FileNotFoundError) as error:
            failures[item.photo] = str(error)
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failures[item.photo] = f"too large for the memory, make it smaller: {error}"
            continue
        yield item, photo, encoded


def _prototypes(
    arguments: argparse.Namespace, model: ClipModel, listed: PhotoSet, Z: Tensor
) -> tuple[Tensor, float | None]:
    """The prototypes asked for, and the temperature GradCAM takes with them."""
    if arguments.prototypes == "text":
        return Z, None
    names, photos, failures = listed.names, listed.photos, listed.failures
    learned = arguments.output / PROTOTYPES
    if arguments.prototypes != "vision":
        source = Path(arguments.prototypes)
    elif learned.exists():
        source = learned
    else:
        encoded = (item for _, _, item in _encode(model, photos, failures, "seeds"))
        fit = learn_from_photos(
            model,
            encoded,
            Z,
            arguments.tau_I,
            num_foreground=len(names.labels),
            anchor=arguments.anchor,
            threshold=arguments.threshold,
            pixels_per_photo=arguments.pixels_per_photo,
            box_threshold=names.box_threshold,
        )
        facts = {
            **model_source(arguments),
            "model": model.name,
            "classes": names.labels,
            **names.texts(),
            "photos": sum(item.photo not in failures for item in photos),
            "tau_I": arguments.tau_I,
            "anchor": arguments.anchor,
            "threshold": arguments.threshold,
            "loss": float(fit.losses[-1]),
            "gap": float(fit.gaps[-1]),
            "passes": fit.passes,
        }
        save_prototypes(learned, fit.prototypes, facts)
        return fit.prototypes, arguments.tau_I
    used = read_prototypes(model, listed, source, arguments.tau_I)
    return used.rows, used.temperature


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that the outputs depend on but the texts."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in sorted(vars(arguments).items())
        if name not in ("command", "run", "output", "device", *TEXT_OPTIONS)
    }


def _targets(output: Path, item: SetPhoto, arguments: argparse.Namespace) -> dict[str, Path]:
    """The files of one photo."""
    # The suffix stays in the name, so that a.jpg and a.png keep apart.
    files = {
        "cams": output / "cams" / f"{item.name}.npz",
        "mask": output / "masks" / f"{item.name}.png",
    }
    if not arguments.no_panels:
        files["panel"] = output / "panels" / f"{item.name}.png"
    return files


def _is_done(output: Path, item: SetPhoto, arguments: argparse.Namespace) -> bool:
    return all(path.exists() for path in _targets(output, item, arguments).values())


def _write(
    output: Path,
    arguments: argparse.Namespace,
    names: ClassNames,
    item: SetPhoto,
    photo: Image.Image,
    encoded: EncodedPhoto,
    cams: PhotoCAMs,
    text: PhotoCAMs | None,
) -> None:
    files = _targets(output, item, arguments)
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    maps = resize_cams(cams.refined, encoded.size)
    if arguments.crf:
        mask = pseudo_mask(np.asarray(photo), maps, item.classes, power=arguments.power)
    else:
        labels = cams_to_labels(maps, item.classes, arguments.power)
        mask = labels.to(torch.uint8).cpu().numpy()
    if text is not None:
        text_maps = resize_cams(text.refined, encoded.size)
        learned = arguments.prototypes != "text"
        rows = [
            PanelRow(names.labels[index], index + 1, text_maps[k], maps[k] if learned else None)
            for k, index in enumerate(item.classes)
        ]
        save_panel(files["panel"], photo, rows, [("mask", mask)])
    write_mask(files["mask"], mask)
    with whole_file(files["cams"]) as part:
        np.savez_compressed(
            part,
            classes=np.array(item.classes),
            labels=np.array([names.labels[index] for index in item.classes]),
            raw=cams.raw.cpu().numpy(),
            refined=cams.refined.cpu().numpy(),
            size=np.array(encoded.size),
        )
