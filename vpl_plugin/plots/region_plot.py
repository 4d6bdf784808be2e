"""Region embeddings in the plane by t-SNE: Fig. 4 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import voc_palette

__all__ = ["check_tsne", "save_region_plot", "tsne"]

# t-SNE's perplexity is the number of neighbours that a point is to keep.
_PERPLEXITY = 30.0


def check_tsne() -> Any:
    """The class that does it.

    Raises:
        ImportError: scikit-learn is not installed; the message says how to get it.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(
            "t-SNE needs the package scikit-learn, which is not installed:"
            ' pip install "vpl_plugin[demo]"'
        ) from error
    return TSNE


def tsne(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points in the plane whose neighbours are those by cosine distance.

    Args:
        embeddings: (R, D), R of 4 or more.
        seed: of the descent; it starts from the principal components.

    Returns:
        (R, 2).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: too few embeddings.
    """
    if len(embeddings) < 4:
        raise InputError(f"embeddings must be 4 or more for a t-SNE; got {len(embeddings)}")
    perplexity = min(_PERPLEXITY, (len(embeddings) - 1) / 3)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    # Between unit vectors the squared Euclidean distance is twice the cosine distance.
    return check_tsne()(perplexity=perplexity, init="pca", random_state=seed).fit_transform(units)


def save_region_plot(
    path: Path,
    regions: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
) -> None:
    """Writes one PNG: a scatter plot a title, one point a region, in the colour of its class.

    Args:
        path: of the PNG.
        regions: for each title the embeddings (R, D) and the classes (R,) from 0.
        classes: names of all classes.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: too few regions.
        OSError: the file cannot be written.
    """
    # Not pyplot: that keeps figures alive and picks a window system.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    palette = voc_palette() / 255
    figure = Figure(figsize=(5.0 * len(regions) + 1.6, 4.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(regions), squeeze=False)[0]
    shown: set[int] = set()
    for axis, (title, (embeddings, labels)) in zip(axes, regions.items(), strict=True):
        points = tsne(embeddings)
        axis.scatter(*points.T, c=palette[labels + 1], s=26, edgecolors="black", linewidths=0.3)
        axis.set(title=title, xticks=[], yticks=[])
        shown |= set(labels.tolist())
    handles = [
        Line2D([], [], marker="o", ls="", color=palette[index + 1], label=classes[index])
        for index in sorted(shown)
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    with whole_file(path) as part:
        figure.savefig(part)
