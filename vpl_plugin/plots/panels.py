"""Pictures: panels of CAMs and masks, and the curves of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.core.prototypes import PrototypeFit
from vpl_plugin.localization.mask_files import IGNORE_INDEX, voc_palette
from vpl_plugin.results import MADE_FROM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_ASPECT", "PanelRow", "save_curves", "save_panel"]

# Ignored pixels are shown in grey, which no VOC label has at its full saturation.
IGNORED_COLOUR = (200, 200, 200)
# Of a picture's height to its width: that of a photo's thin strip would take gigabytes to draw.
MOST_ASPECT = 4.0


class PanelRow(NamedTuple):
    """One class of a photo in a panel.

    Attributes:
        label: name of the class.
        mask_label: what stands for it in the masks.
        text_cam: (H, W) in [0, 1], or None where no text prototypes were used.
        vision_cam: the same of vision prototypes.
    """

    label: str
    mask_label: int
    text_cam: Tensor | None
    vision_cam: Tensor | None


def save_panel(
    path: Path,
    photo: Image.Image,
    rows: Sequence[PanelRow],
    masks: Sequence[tuple[str, np.ndarray]],
    *,
    made_from: str = "",
) -> None:
    """Writes one PNG: the photo and the masks on top, then a row of CAMs per class.

    Args:
        path: of the PNG.
        photo: RGB.
        rows: the classes present.
        masks: titles and label maps (H, W), such as pseudo-mask and mask.
        made_from: the digest of its inputs.

    Raises:
        OSError: the file cannot be written.
    """
    columns = max(len(masks) + 1, 3)
    aspect = min(photo.height / photo.width, MOST_ASPECT)
    width = 2.6
    figure = _figure(columns * width, (len(rows) + 1) * (width * aspect + 0.3))
    axes = figure.subplots(len(rows) + 1, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    _picture(axes[0, 0], photo, "photo")
    for axis, (title, mask) in zip(axes[0, 1:], masks, strict=False):
        _picture(axis, _overlay(photo, mask), title)
    for cells, row in zip(axes[1:], rows, strict=True):
        _class_name(cells[0], row)
        named = (("text CAM", row.text_cam), ("vision CAM", row.vision_cam))
        for axis, (title, cam) in zip(cells[1:], named, strict=False):
            if cam is not None:
                _cam(axis, photo, cam, title)
    _save(figure, path, {MADE_FROM: made_from})


def save_curves(path: Path, fit: PrototypeFit) -> None:
    """Writes one PNG: the loss of Eq. 7 and the gap over the iterations.

    Args:
        path: of the PNG.
        fit: with at least one iteration.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(8.0, 2.8)
    left, right = figure.subplots(1, 2)
    divergence = (fit.losses - fit.target_entropy).cpu()
    left.plot(divergence, color="tab:blue")
    left.set(xlabel="iteration", title="KL(targets || P_vision), nats", ylim=(0, None))
    right.plot(fit.gaps.cpu(), color="tab:orange")
    right.set(xlabel="iteration", title="cosine gap, pixels to prototypes")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    # Not pyplot: that keeps figures alive and picks a window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _save(figure: Figure, path: Path, texts: dict[str, str] | None = None) -> None:
    with whole_file(path) as part:
        figure.savefig(part, metadata=texts)


def _picture(axis: Axes, picture: Image.Image | np.ndarray, title: str) -> None:
    axis.imshow(np.asarray(picture))
    axis.set_title(title, fontsize=9)


def _class_name(axis: Axes, row: PanelRow) -> None:
    """The name on the class's colour in the masks, in black or white, whichever is legible."""
    colour = voc_palette()[row.mask_label] / 255
    ink = "black" if colour @ (0.299, 0.587, 0.114) > 0.5 else "white"
    box = {"facecolor": colour, "edgecolor": "none"}
    axis.text(0.95, 0.5, row.label, ha="right", va="center", fontsize=11, color=ink, bbox=box)


def _cam(axis: Axes, photo: Image.Image, cam: Tensor, title: str) -> None:
    axis.imshow(np.asarray(photo.convert("L")), cmap="gray", vmin=0, vmax=255)
    axis.imshow(cam.cpu().numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.65)
    axis.set_title(title, fontsize=9)


def _overlay(photo: Image.Image, mask: np.ndarray) -> np.ndarray:
    palette = voc_palette()
    palette[IGNORE_INDEX] = IGNORED_COLOUR
    colours = palette[mask].astype(np.float32)
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    return (0.7 * colours + 0.3 * grey).astype(np.uint8)
