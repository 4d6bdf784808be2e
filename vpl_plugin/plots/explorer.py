"""A report to explore in a browser: text and vision maps over the photos, and what each pixel says.

It opens from a disk, without a network, where a page may neither fetch files nor read the pixels of
pictures that lie in files. What is read under the pointer is therefore text: 8-bit maps on the grid
of patches, and pictures as data URIs. With few photos all of it is in the page. With many, each
photo's data is a script beside it, which the page loads when the photo is turned to: classic
scripts are the one kind of data that a page from a disk may load.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.results import MADE_FROM

__all__ = [
    "ExplorerPhoto",
    "PhotoMaps",
    "eight_bit",
    "listed_photo",
    "mask_shapes",
    "photo_data",
    "picture_uri",
    "thumbnail",
    "write_photo_script",
    "write_report",
]

# Longest side of the pictures in pixels: what a page shows them at, and about 30 KB each.
SIDE = 480
QUALITY = 80
TEMPLATES = Path(__file__).parent / "templates"


class PhotoMaps(NamedTuple):
    """What one kind of prototypes gives on a photo with K classes.

    Attributes:
        cams: (K, h, w) in [0, 1], on the grid of patches.
        probabilities: (K + 2, h, w) in [0, 1]: the classes, all other classes, the background.
        mask: (H, W) uint8 at the photo's size, or None.
    """

    cams: Tensor
    probabilities: Tensor
    mask: np.ndarray | None


class ExplorerPhoto(NamedTuple):
    """A photo with its maps.

    Attributes:
        photo: RGB.
        classes: what stands for its K classes in the masks.
        kinds: "text", "vision" or both.
        truth: (H, W) uint8 ground truth, or None.
    """

    photo: Image.Image
    classes: Sequence[int]
    kinds: Mapping[str, PhotoMaps]
    truth: np.ndarray | None = None


def eight_bit(maps: Tensor) -> str:
    """Maps as base64 of one byte a value, good to 1/510.

    Args:
        maps: any shape, in [0, 1].

    Raises:
        InputError: a value is not finite.

    Example:
        >>> base64.b64decode(eight_bit(torch.tensor([0.0, 0.5, 1.0]))).hex()
        '0080ff'
    """
    values = maps.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise InputError("maps must be finite")
    # Half up, not to even: a map's steps stay equally wide.
    rounded = (values.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
    return base64.b64encode(rounded.contiguous().numpy().tobytes()).decode("ascii")


def thumbnail(photo: Image.Image, side: int = SIDE) -> Image.Image:
    """The photo with its longest side no longer than ``side``, its shortest 1 or more.

    Example:
        >>> thumbnail(Image.new("RGB", (1000, 3)), 100).size
        (100, 1)
    """
    scale = min(1.0, side / max(photo.size))
    width, height = (max(1, round(length * scale)) for length in photo.size)
    if (width, height) == photo.size:
        return photo
    return photo.resize((width, height), Image.Resampling.LANCZOS)


def picture_uri(picture: Image.Image | Path) -> str:
    """A picture as a data URI: a JPEG of an image, a PNG file as it is."""
    if isinstance(picture, Path):
        return _uri("png", picture.read_bytes())
    held = io.BytesIO()
    picture.convert("RGB").save(held, format="JPEG", quality=QUALITY, optimize=True)
    return _uri("jpeg", held.getvalue())


def mask_shapes(mask: np.ndarray, labels: Sequence[int], size: tuple[int, int]) -> list[str]:
    """The area of each label as a PNG that is black there and transparent elsewhere.

    Args:
        mask: (H, W) uint8.
        labels: whose areas.
        size: (width, height) of the PNGs.

    Returns:
        A data URI for each label, then one for the ignored pixels.

    Example:
        >>> len(mask_shapes(np.ones((4, 6), np.uint8), [1], (3, 2)))
        2
    """
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    uris = []
    for label in (*labels, IGNORE_INDEX):
        shape = Image.fromarray((small == label).astype(np.uint8))
        shape.putpalette(bytes(6))
        held = io.BytesIO()
        shape.save(held, format="PNG", bits=1, transparency=0, optimize=True)
        uris.append(_uri("png", held.getvalue()))
    return uris


def photo_data(item: ExplorerPhoto) -> dict[str, Any]:
    """What the page needs of a photo, as JSON can hold it: some tens of KB.

    Raises:
        InputError: maps that do not fit together, or are not finite.
    """
    small = thumbnail(item.photo)
    count = len(item.classes)
    grids = {tuple(maps.cams.shape[1:]) for maps in item.kinds.values()}
    for name, maps in item.kinds.items():
        shapes = tuple(maps.cams.shape), tuple(maps.probabilities.shape)
        if len(grids) > 1 or shapes != tuple((count + more, *min(grids)) for more in (0, 2)):
            raise InputError(
                f"maps of {name} prototypes must be (K, h, w) and (K + 2, h, w) for the {count}"
                f" classes of the photo, on one grid; got {shapes[0]} and {shapes[1]}"
            )

    def shapes_of(mask: np.ndarray | None) -> list[str] | None:
        return None if mask is None else mask_shapes(mask, item.classes, small.size)

    return {
        "size": list(small.size),
        "grid": list(min(grids)),
        "photo": picture_uri(small),
        "kinds": {
            name: {
                "cams": eight_bit(maps.cams),
                "probabilities": eight_bit(maps.probabilities),
                "mask": shapes_of(maps.mask),
            }
            for name, maps in item.kinds.items()
        },
        "truth": shapes_of(item.truth),
    }


def listed_photo(
    name: str, labels: Sequence[str], source: Mapping[str, Any] | str, caption: str = ""
) -> dict[str, Any]:
    """A photo in a report's list.

    Args:
        name: unique in the report.
        labels: names of its classes, in the order of its maps.
        source: its :func:`photo_data`, or where its script lies beside the report.
        caption: shown with it.

    Example:
        >>> listed_photo("a b.jpg", ["cat"], "report/a b.jpg.js")["script"]
        'report/a%20b.jpg.js'
    """
    held = {"script": quote(source)} if isinstance(source, str) else {"data": source}
    return {"name": name, "labels": list(labels), "caption": caption, **held}


def write_photo_script(path: Path, name: str, data: Mapping[str, Any], made_from: str) -> None:
    """Writes a photo's data as a script that hands it to the report, whole or not at all.

    Args:
        path: ends in .js.
        name: of the photo in the report.
        data: of :func:`photo_data`.
        made_from: the digest of its inputs.

    Raises:
        OSError: the file cannot be written.
    """
    script = f"// {MADE_FROM} {made_from}\nreceivePhoto({_json(name)}, {_json(data)});\n"
    with whole_file(path) as part:
        part.write_text(script, encoding="utf-8")


def write_report(
    path: Path, title: str, photos: Iterable[Mapping[str, Any]], *, about: str = "", below: str = ""
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the HTML file.
        title: of the page.
        photos: of :func:`listed_photo`.
        about: HTML above the photos.
        below: HTML under them.

    Raises:
        OSError: the file cannot be written.
    """
    page, style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8")
        for name in ("explorer.html", "explorer.css", "explorer.js")
    )
    before, after = page.split("<!-- photos -->")
    parts = {"title": html.escape(title), "style": style, "about": about, "below": below}
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(_filled(before, parts))
        for number, photo in enumerate(photos):
            file.write(f"{',' if number else ''}\n{_json(photo)}")
        file.write(_filled(after, {**parts, "script": script}))


def _filled(page: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"<!-- (\w+) -->", lambda slot: parts[slot[1]], page)


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever the names in it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
