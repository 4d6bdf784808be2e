"""Photos, masks, tables, lists and instance files with anything in them.

Whatever they hold, reading them ends with a result or with the error that is documented, and the
sound ones beside them are never lost. The environment's VPL_FUZZ is the number of inputs:

    VPL_FUZZ=20000 python -m pytest tests/adapters/test_fuzz.py
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.adapters.clip_es.stages.photo_batches import plan_batches
from vpl_plugin.adapters.clip_es.upstream.scripts import SCRIPTS
from vpl_plugin.adapters.clip_es.upstream.split import read_split
from vpl_plugin.adapters.datasets import SetPhoto, coco_photos, folder_photos, voc_photos
from vpl_plugin.adapters.photos.photo_list import listed_photos
from vpl_plugin.clip import VOC, BrokenPhotoError, open_photo
from vpl_plugin.clip.preprocess import photo_size
from vpl_plugin.localization import read_mask, write_mask
from vpl_plugin.localization.mask_scores import score_masks

KINDS = ("exif", "masks", "csv", "splits", "instances")
INPUTS = int(os.environ.get("VPL_FUZZ", 500)) // len(KINDS)
# Inputs that lie side by side, with sound ones between them.
BATCH = 20
SEED = 20260731

pytestmark = pytest.mark.filterwarnings("ignore")

Rng = np.random.Generator


@pytest.fixture(autouse=True)
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged header may tell of a photo of gigapixels: Pillow refuses those, here earlier."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)


def batches(kind: str) -> list[tuple[int, Rng]]:
    """The number of inputs of each batch, and a generator that this batch alone depends on."""
    sizes = [min(BATCH, INPUTS - start) for start in range(0, INPUTS, BATCH)]
    return [
        (size, np.random.default_rng([SEED, KINDS.index(kind), number]))
        for number, size in enumerate(sizes)
    ]


def damaged(content: bytes, rng: Rng, first: int = 400) -> bytes:
    """Some bytes of the beginning changed, or the end cut off."""
    held = bytearray(content)
    for _ in range(rng.integers(1, 12)):
        held[rng.integers(min(first, len(held)))] = rng.integers(256)
    return bytes(held[: rng.integers(1, len(held))] if rng.random() < 0.1 else held)


def metadata(rng: Rng) -> bytes:
    """EXIF with entries of any tag, type, count and value."""
    order = rng.choice(["<", ">"])
    tags = (
        0x0112,
        0x011A,
        0x011B,
        0x0128,
        0x8769,
        0x8825,
        0xA005,
        0x927C,
        int(rng.integers(65536)),
    )
    entries = []
    for _ in range(rng.integers(1, 6)):
        count = int(rng.choice([0, 1, 1, 1, 2, 4, 255, 2**32 - 1]))
        small = rng.random() < 0.6
        value = struct.pack(f"{order}H2x", rng.integers(12)) if small else rng.bytes(4)
        entries.append(
            struct.pack(f"{order}HHI4s", int(rng.choice(tags)), rng.integers(15), count, value)
        )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    offset = 8 if rng.random() < 0.9 else int(rng.integers(200))
    counted = len(entries) if rng.random() < 0.9 else int(rng.integers(65536))
    head = mark + struct.pack(f"{order}IH", offset, counted)
    return b"Exif\0\0" + head + b"".join(entries) + rng.bytes(int(rng.integers(20)))


def damaged_photo(rng: Rng) -> tuple[str, bytes]:
    """A photo with odd metadata, or with bytes changed."""
    kind = str(rng.choice(["JPEG", "JPEG", "PNG", "WEBP", "TIFF", "GIF"]))
    pixels = rng.integers(0, 256, (rng.integers(1, 24), rng.integers(1, 24), 3), dtype=np.uint8)
    options: dict[str, Any] = {}
    if kind == "TIFF":
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(10))
        options["exif"] = exif
    elif kind != "GIF":
        options["exif"] = metadata(rng)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    content = file.getvalue()
    return f"{kind.lower()}.jpg", damaged(content, rng) if rng.random() < 0.4 else content


def text(rng: Rng, length: int = 12, without: str = "\0") -> str:
    """Characters of all kinds, those that mean something in lists and tables more often."""
    special = list(" \t\"',;./\\\n\r-~:*?%0\0\v\x1c\x85\ufeff\u2028\u202eé漢😀")
    letters = [
        str(rng.choice(special)) if rng.random() < 0.4 else chr(rng.integers(0x20, 0xD7FF))
        for _ in range(rng.integers(0, length))
    ]
    if rng.random() < 0.02:
        letters *= 400
    return "".join(letter for letter in letters if letter not in without)


def refusal(call: Callable[[], object], *errors: type[Exception]) -> str | None:
    """The message of a documented error; anything else that is raised ends the test."""
    try:
        call()
    except errors as error:
        return str(error)
    return None


def test_photos(tmp_path: Path) -> None:
    for number, (size, rng) in enumerate(batches("exif")):
        folder = tmp_path / str(number)
        folder.mkdir()
        items = []
        for index in range(size):
            name, content = damaged_photo(rng)
            path = folder / f"{index}_{name}"
            path.write_bytes(content)
            items.append(SetPhoto(path.name, path, (0,), None))
            why = refusal(partial(open_photo, path), BrokenPhotoError)
            if why is not None:
                assert str(path) in why
                refusal(partial(photo_size, path), BrokenPhotoError)
            else:
                opened = open_photo(path)
                assert photo_size(path) == (opened.height, opened.width), (number, index)
        sound = folder / "sound.jpg"
        Image.new("RGB", (20, 30)).save(sound)
        items.insert(size // 2, SetPhoto(sound.name, sound, (0,), None))
        failures: dict[Path, str] = {}
        planned = [item for batch in plan_batches(items, 16, 4, failures) for item in batch]
        assert items[size // 2] in planned
        assert {item.photo for item in planned} | {*failures} == {item.photo for item in items}


def damaged_mask(rng: Rng, shape: tuple[int, int]) -> bytes:
    """A mask of any mode, palette and size, or with bytes changed."""
    if rng.random() < 0.2:
        shape = (int(rng.integers(1, 20)), int(rng.integers(1, 20)))
    labels = rng.integers(0, rng.choice([2, 3, 21, 256]), shape).astype(np.uint8)
    image = Image.fromarray(labels)
    mode = str(rng.choice(["P", "P", "P", "L", "RGB", "1", "LA", "RGBA", "I;16"]))
    if mode == "P":
        colours = rng.choice([0, 64, 128, 192, 224, 255], 3 * int(rng.integers(1, 257)))
        image.putpalette(colours.astype(np.uint8).tobytes())
    elif mode == "I;16":
        image = Image.fromarray(labels.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    content = file.getvalue()
    return damaged(content, rng, first=len(content)) if rng.random() < 0.4 else content


def test_masks(tmp_path: Path) -> None:
    shape = (9, 14)
    predicted, truth = tmp_path / "predicted.png", tmp_path / "truth.png"
    write_mask(predicted, np.ones(shape, np.uint8))
    write_mask(truth, np.eye(*shape, dtype=np.uint8))
    for number, (size, rng) in enumerate(batches("masks")):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = [folder / f"{index}.png" for index in range(size)]
        for path in paths:
            path.write_bytes(damaged_mask(rng, shape))
            why = refusal(partial(read_mask, path), ValueError)
            if why is not None:
                assert str(path) in why
            else:
                mask = read_mask(path)
                assert (mask.dtype, mask.ndim) == (np.uint8, 2)
        failures: dict[Path, str] = {}
        pairs = [(predicted, path) for path in (*paths, truth)]
        scores = score_masks(pairs, VOC.labels, failures)
        assert scores is not None
        assert scores["photos"] + len(failures) == len(pairs)
        assert truth not in failures
        assert scores["per_class"]["aeroplane"] is not None


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder in ("JPEGImages/sub", "Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b", "two words", "sub/c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"JPEGImages/{name}.jpg")
        annotation = "<annotation><object><name>cat</name></object></annotation>"
        (tmp_path / f"Annotations/{Path(name).name}.xml").write_text(annotation)
    return tmp_path


def test_tables(voc: Path) -> None:
    file, root = voc / "labels.csv", voc / "JPEGImages"
    good = [("a.jpg", "cat"), ("sub/c.jpg", "dog; cat")]
    for size, rng in batches("csv"):
        rows = {Path(text(rng).lstrip(" ")): text(rng) for _ in range(size)}
        table = io.StringIO()
        csv.writer(table).writerows(
            [("photo", "labels"), good[0], *((str(p), w) for p, w in rows.items()), good[1]]
        )
        content = table.getvalue().encode()
        file.write_bytes(content)
        found = folder_photos(root, VOC, file, masks=voc)
        # Paths that are the same below the folder, such as "a" and "/../a", may be one failure.
        assert {"a.jpg", "sub/c.jpg"} <= {item.name for item in found.photos}
        assert len(found.photos) + len(found.failures) <= len(rows) + 2
        for _ in range(size):
            file.write_bytes(damaged(content, rng, first=len(content)))
            why = refusal(lambda: folder_photos(root, VOC, file), ValueError)
            assert why is None or str(file) in why


def test_splits(voc: Path) -> None:
    file, instances = voc / "list.txt", voc / "instances.json"
    instances.write_text('{"images": [], "annotations": [], "categories": []}')
    below = [path.relative_to(voc / "JPEGImages") for path in voc.rglob("*.jpg")]
    for size, rng in batches("splits"):
        lines = [f"z{index}{text(rng, without=chr(0) + '/')}" for index in range(size)]
        lines = [" ".join(line.split("\n")).replace("\r", " ") for line in lines]
        content = "\n".join(["a", *lines, "two words", ""]).encode()
        file.write_bytes(content)
        found = voc_photos(voc, file)
        assert [item.name for item in found.photos] == ["a", "two words"]
        assert len(found.failures) == size
        for _ in range(size):
            file.write_bytes(damaged(content, rng, first=len(content)))
            for call in (
                lambda: voc_photos(voc, file),
                lambda: coco_photos(voc, "JPEGImages", split=file, instances=instances),
                lambda: listed_photos(file, below),
                *(partial(read_split, file, script, voc) for script in SCRIPTS.values()),
            ):
                why = refusal(call, ValueError, FileNotFoundError)
                assert why is None or str(file) in why
        annotation = (
            b'<?xml version="1.0" encoding="UTF-8"?><a><object><name>cat</name></object></a>'
        )
        (voc / "Annotations/b.xml").write_bytes(damaged(annotation, rng))
        file.write_text("a\nb\n")
        found = voc_photos(voc, file)
        assert found.photos[0].name == "a"
        assert len(found.photos) + len(found.failures) + found.without_labels == 2


def test_instances(voc: Path) -> None:
    file = voc / "instances.json"
    odd: list[Any] = [None, True, -1, 1.5, "1", "", [], {}, [1], {"id": 1}, 10**30, "a/b", "\0"]
    for size, rng in batches("instances"):
        for _ in range(size):
            held: Any = {
                "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
                "categories": [{"id": 17, "name": "cat"}],
                "annotations": [
                    {"image_id": 1, "category_id": 17},
                    {"image_id": 2, "category_id": 17},
                ],
            }
            node, key = held, str(rng.choice([*held]))
            while rng.random() < 0.8 and isinstance(node[key], (dict, list)):
                node = node[key]
                key = (
                    rng.choice([*node]) if isinstance(node, dict) else int(rng.integers(len(node)))
                )
            node[key] = odd[rng.integers(len(odd))]
            content = json.dumps(held).encode()
            file.write_bytes(damaged(content, rng) if rng.random() < 0.3 else content)
            why = refusal(lambda: coco_photos(voc, "JPEGImages", instances=file), ValueError)
            assert why is None or str(file) in why
