"""The options of segmenting photos with a trained decoder."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from vpl_plugin.segmentation.inference import check_settings

__all__ = ["InferenceSettings", "add_inference_arguments", "inference_settings"]


class InferenceSettings(NamedTuple):
    """How photos are seen; see :func:`vpl_plugin.segmentation.inference.segment`."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 0.5

    def views(self) -> dict[str, Any]:
        """As arguments of :func:`~vpl_plugin.segmentation.inference.photo_views`."""
        return self._asdict()


def add_inference_arguments(parser: argparse._ActionsContainer) -> None:
    """Scales, flip, windows."""
    parser.add_argument(
        "--test-scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="average over these scales of a photo (default: 1)",
    )
    parser.add_argument("--flip", action="store_true", help="average over the mirrored photo too")
    parser.add_argument(
        "--window", type=int, help="cut larger photos into windows of so many pixels a side"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="least overlap of windows (default: 0.5)"
    )


def inference_settings(arguments: argparse.Namespace) -> InferenceSettings:
    """The settings asked for.

    Raises:
        ValueError: a setting is out of range.
    """
    settings = InferenceSettings(
        tuple(arguments.test_scales), arguments.flip, arguments.window, arguments.overlap
    )
    check_settings(settings.scales, settings.window, settings.overlap)
    return settings
