"""The options of a training of the decoder, each named after its setting."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from vpl_plugin.segmentation.settings import TrainingSettings, default_scales

__all__ = ["add_training_arguments", "training_settings"]

# Setting, type, help. A sequence of numbers has its type in a tuple.
OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("blocks", (int,), "blocks whose tokens the decoder reads, from 0 (default: up to four)"),
    ("width", int, "of the decoder's layers"),
    ("layers", int, "transformer layers of the decoder"),
    ("heads", int, "of their attention"),
    ("upsampling", int, "embeddings to a patch and axis"),
    ("temperature", float, "of the encoder's own features (default: the prototypes' tau_I)"),
    ("iterations", int, "steps of the optimizer"),
    ("batch_size", int, "photos per iteration, over all parts and processes"),
    ("accumulation", int, "parts of a batch, one after the other in memory"),
    ("learning_rate", float, "at the start of the poly schedule"),
    ("momentum", float, "of SGD"),
    ("weight_decay", float, "of SGD"),
    ("power", float, "of the poly schedule"),
    ("warmup", int, "iterations in which the learning rate rises"),
    ("clip_norm", float, "largest norm of the gradient"),
    ("crop", int, "side of the crops in pixels"),
    (
        "scales",
        (float,),
        "least and largest random scale (default: 0.5 2.0); with a cache the scales to cache"
        " (default: 1)",
    ),
    ("mask_stride", int, "take the cross-entropy at every so many rows and columns"),
    ("lambda_ce", float, "weight of the cross-entropy"),
    ("lambda_rsc", float, "weight of regional semantic contrast"),
    ("tau", float, "temperature of regional semantic contrast"),
    ("activation", str, "of its masks: relu, sigmoid, softmax, present or none"),
    ("detach_masks", bool, "no gradient through its masks"),
    ("centred", bool, "its cosines about the mean of the batch"),
    ("least_area", float, "share of a crop that a class's mask must cover to count in it"),
    ("ce", str, "cross-entropy: plain, Eq. 14's, or balanced, half of it the background's"),
    ("precision", str, "float32, bfloat16 or float16 (default: by the device)"),
)


def add_training_arguments(parser: argparse._ActionsContainer, *, leave_out: str = "") -> None:
    """An option for each setting but the seed.

    Args:
        parser: gets them. An option that is not given is None.
        leave_out: a setting that the command sets by itself.
    """
    for name, kind, about in OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        if name == leave_out:
            continue
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, help=about + _default(name)
            )
        else:
            parser.add_argument(
                flag,
                type=kind[0] if isinstance(kind, tuple) else kind,
                nargs="+" if isinstance(kind, tuple) else None,
                help=about + _default(name),
            )


def training_settings(
    arguments: argparse.Namespace, *, cached: bool, tau_I: float, **own: Any
) -> TrainingSettings:
    """The settings asked for.

    Args:
        arguments: of :func:`add_training_arguments`.
        cached: trained from cached tokens.
        tau_I: the temperature that the prototypes were learned with.
        **own: what the command sets by itself, such as the seed.

    Raises:
        ValueError: a setting is out of range.
    """
    given = {name: getattr(arguments, name, None) for name, _, _ in OPTIONS}
    chosen = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    chosen.setdefault("temperature", tau_I)
    chosen.setdefault("scales", default_scales(cached=cached))
    return TrainingSettings(**{**chosen, **own})


def _default(name: str) -> str:
    value = next(field.default for field in fields(TrainingSettings) if field.name == name)
    if value is None or name == "temperature":
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f" (default: {shown})"
