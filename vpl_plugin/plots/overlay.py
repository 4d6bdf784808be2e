"""A picture of a photo under its label map, with the names of the colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.localization.mask_files import voc_palette
from vpl_plugin.plots.panels import MOST_ASPECT
from vpl_plugin.results import MADE_FROM

__all__ = ["save_overlay"]


def save_overlay(
    path: Path,
    photo: Image.Image,
    mask: np.ndarray,
    classes: Sequence[str],
    *,
    made_from: str = "",
) -> None:
    """Writes one PNG: the photo beside itself with the classes coloured, and a legend.

    Args:
        path: of the PNG.
        photo: RGB.
        mask: (H, W) uint8 labels, 0 for the background, 1 + n for class n.
        classes: names of the foreground classes.
        made_from: the digest of its inputs.

    Raises:
        OSError: the file cannot be written.
    """
    # Not pyplot: that keeps figures alive and picks a window system.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    palette = voc_palette()
    pixels = np.asarray(photo)
    mixed = (0.45 * pixels + 0.55 * palette[mask]).astype(np.uint8)
    shown = np.where((mask == 0)[..., None], pixels, mixed)
    width = 4.0
    height = width * min(photo.height / photo.width, MOST_ASPECT)
    figure = Figure(figsize=(2 * width, height + 0.5), dpi=100, layout="constrained")
    for axis, picture in zip(figure.subplots(1, 2), (pixels, shown), strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
    labels = [int(label) for label in np.unique(mask) if 0 < label <= len(classes)]
    if labels:
        handles = [Patch(color=palette[label] / 255, label=classes[label - 1]) for label in labels]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(labels)))
    with whole_file(path) as part:
        figure.savefig(part, metadata={MADE_FROM: made_from})
