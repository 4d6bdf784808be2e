"""Weights from files, without unpickling anything, and OpenAI's CLIP ViTs from their weights."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Checkpoint", "build_openai_vit", "load_weights", "read_checkpoint"]

# OpenAI's models have heads of this width; their checkpoints do not note it.
_HEAD_WIDTH = 64
# Noted in OpenAI's archives beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        weights: by parameter name.
        is_torchscript: the file is a TorchScript archive, as OpenAI distributes its models.
        path: of the file.
    """

    weights: dict[str, Tensor]
    is_torchscript: bool
    path: Path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a state dict, a training checkpoint that holds one, safetensors or TorchScript.

    Args:
        path: the file.

    Returns:
        The weights on the CPU, names without the ``module.`` of data-parallel training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no weights, or holds pickled objects, which are
            never run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file with weights at {path}")
    is_torchscript = _is_torchscript(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif is_torchscript:
            with warnings.catch_warnings():
                # torch deprecates the format, in which OpenAI's files nevertheless come.
                warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
                content = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds other Python objects than tensors, or is damaged. Such objects could "
            "run code and are not loaded: save the model's state_dict() instead"
        ) from error
    # The readers raise errors of their own for damaged files, safetensors one that is
    # derived from Exception only.
    except Exception as error:
        raise ValueError(f"cannot read weights from {path}: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    weights = (
        {
            str(name).removeprefix("module."): value
            for name, value in content.items()
            if isinstance(value, Tensor) and name not in _NOT_WEIGHTS
        }
        if isinstance(content, Mapping)
        else {}
    )
    if not weights:
        raise ValueError(f"{path} holds no state dict: no tensor with a name was found")
    return Checkpoint(weights, is_torchscript, path)


def build_openai_vit(checkpoint: Checkpoint) -> nn.Module:
    """OpenAI's CLIP with a vision transformer, every size read off its weights, in float32.

    Args:
        checkpoint: weights under OpenAI's names.

    Returns:
        An ``open_clip.CLIP`` with QuickGELU, as OpenAI's models have.

    Raises:
        ValueError: the weights are those of something else; the message says of what.
    """
    weights = checkpoint.weights
    if "visual.layer1.0.conv1.weight" in weights:
        raise ValueError(
            f"{checkpoint.path} holds a CLIP with a ResNet; only vision transformers are supported"
        )
    needed = (
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.proj",
        "positional_embedding",
        "token_embedding.weight",
        "ln_final.weight",
        "text_projection",
    )
    missing = [name for name in needed if name not in weights]
    if missing:
        raise ValueError(
            f"{checkpoint.path} is no CLIP ViT with OpenAI's parameter names: it has no "
            f"{', '.join(missing)}. For a checkpoint of another architecture pass the "
            "architecture's name, and the file as pretrained"
        )
    import open_clip

    width, _, _, patch_size = weights["visual.conv1.weight"].shape
    native_side = math.isqrt(weights["visual.positional_embedding"].shape[0] - 1)
    text_width = weights["ln_final.weight"].shape[0]
    model = open_clip.CLIP(
        embed_dim=weights["text_projection"].shape[1],
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=_count_blocks(weights, "visual.transformer.resblocks."),
            width=width,
            head_width=_HEAD_WIDTH,
            patch_size=patch_size,
            image_size=patch_size * native_side,
        ),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=weights["positional_embedding"].shape[0],
            vocab_size=weights["token_embedding.weight"].shape[0],
            width=text_width,
            heads=max(text_width // _HEAD_WIDTH, 1),
            layers=_count_blocks(weights, "transformer.resblocks."),
        ),
        quick_gelu=True,
    )
    load_weights(model, checkpoint)
    return model


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a file's weights into a model, all of them and nothing else.

    Raises:
        ValueError: names or shapes differ; the message lists the first few.
    """
    own = model.state_dict()
    weights = checkpoint.weights
    differences = [f"no {name}" for name in own if name not in weights]
    differences += [f"unknown {name}" for name in weights if name not in own]
    differences += [
        f"{name} of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if differences:
        shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
        raise ValueError(
            f"the weights in {checkpoint.path} do not fit the model in {len(differences)} places: "
            f"{shown}"
        )
    model.load_state_dict(weights)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
