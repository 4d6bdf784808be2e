"""The settings of segmenting photos with a trained decoder, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vpl_plugin.segmentation.inference import check_settings

__all__ = ["InferenceSettings"]


@dataclass(frozen=True)
class InferenceSettings:
    """How photos are seen.

    Attributes:
        test_scales: average over these scales of a photo.
        flip: average over the mirrored photo too.
        window: cut larger photos into windows of so many pixels a side.
        overlap: least overlap of windows, in [0, 1).

    Raises:
        TypeError, InputError: a setting is out of range.

    Example:
        >>> InferenceSettings(flip=True).views()
        {'scales': (1.0,), 'flip': True, 'window': None, 'overlap': 0.5}
    """

    test_scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 0.5

    def __post_init__(self) -> None:
        check_settings(self.test_scales, self.window, self.overlap)

    def views(self) -> dict[str, Any]:
        """As arguments of :func:`~vpl_plugin.segmentation.inference.photo_views`."""
        return {
            "scales": self.test_scales,
            "flip": self.flip,
            "window": self.window,
            "overlap": self.overlap,
        }
