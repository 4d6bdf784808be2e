"""The options that name a CLIP model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from vpl_plugin.clip import ClipModel

__all__ = ["add_model_arguments", "load_model", "model_source"]


def add_model_arguments(
    parser: argparse._ActionsContainer, *, default: str | None = "mini", default_is: str = "mini"
) -> None:
    """The model, its weights and where it computes.

    Args:
        parser: gets them.
        default: of ``--model``.
        default_is: what the help says of it.
    """
    parser.add_argument(
        "--model", default=default, help=f"as load_clip takes it (default: {default_is})"
    )
    parser.add_argument("--pretrained", help="open_clip's pretrained tag, a file or a folder")
    parser.add_argument(
        "--quick-gelu",
        action=argparse.BooleanOptionalAction,
        help="activation of weights that do not say theirs, such as a bare state dict (default:"
        " QuickGELU, as OpenAI's models have it)",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda if it is there)")


def load_model(
    arguments: argparse.Namespace,
    *,
    default: str = "mini",
    device: torch.device | str | None = None,
) -> ClipModel:
    """The model that the options name.

    Args:
        arguments: of :func:`add_model_arguments`.
        default: the model where ``--model`` is not given.
        device: instead of ``--device``.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: its weights are to be downloaded, and cannot be.
        TypeError: it is no plain vision transformer.
        ValueError: there is no such model, or the options contradict each other.
    """
    # Imported here: --help should not wait for torch.
    from vpl_plugin.clip import load_clip

    return load_clip(
        arguments.model if arguments.model is not None else default,
        arguments.pretrained,
        device=device or arguments.device,
        quick_gelu=arguments.quick_gelu,
    )


def model_source(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model in words, for the settings of a run; the activation only where it is given.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_model_arguments(parser)
        >>> model_source(parser.parse_args(["--model", "tuned.pt", "--no-quick-gelu"]))
        {'model': 'tuned.pt', 'pretrained': None, 'quick_gelu': False}
    """
    source = {"model": arguments.model, "pretrained": arguments.pretrained}
    given = arguments.quick_gelu is not None
    return {**source, "quick_gelu": arguments.quick_gelu} if given else source
