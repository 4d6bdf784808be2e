"""A CLIP's weights under OpenAI's parameter names, and OpenAI's CLIP ViTs from their weights."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpl_plugin.clip.activation import uses_quick_gelu
from vpl_plugin.clip.hugging_face import (
    HFConfig,
    TowerConfig,
    config_beside,
    has_hf_names,
    openai_names,
    parse_config,
    read_json,
    weight_parts,
)
from vpl_plugin.clip.one_line import one_line
from vpl_plugin.clip.vision_tower import UnsupportedModelError
from vpl_plugin.clip.weight_files import read_weight_file
from vpl_plugin.errors import InputError

__all__ = [
    "OPEN_CLIP_CONFIG",
    "Checkpoint",
    "activation_of",
    "apply_config",
    "build_openai_vit",
    "check_fit",
    "from_hf_model",
    "load_weights",
    "native_side",
    "read_checkpoint",
]

logger = logging.getLogger(__name__)

# What open_clip writes beside its weights.
OPEN_CLIP_CONFIG = "open_clip_config.json"
# OpenAI's models have heads of this width; their checkpoints do not note it.
_HEAD_WIDTH = 64
# Noted in OpenAI's archives beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# Under which training scripts keep the model's weights, beside an optimiser's.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module")
# What wraps a model puts before its names: data-parallel training, torch.compile, Lightning.
_PREFIXES = re.compile(r"(?:(?:module|_orig_mod|model|clip|clip_model)\.)+")
_SHOWN = 5


class Checkpoint(NamedTuple):
    """What a file or folder holds.

    Attributes:
        weights: by OpenAI's parameter names, where they have one there.
        source: what messages call it: the path of the file or folder.
        is_openai: a TorchScript archive, or with the figures that OpenAI notes beside the weights.
        config: what the config.json beside weights with Hugging Face's names says.
        open_clip_config: the model's part of the open_clip_config.json beside other weights.
        names: the first few names in the file.
    """

    weights: dict[str, Tensor]
    source: str
    is_openai: bool = False
    config: HFConfig | None = None
    open_clip_config: Mapping[str, Any] | None = None
    names: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a state dict, a training checkpoint that holds one, safetensors or TorchScript.

    Args:
        path: the file, or a folder that ``save_pretrained`` of Hugging Face wrote.

    Returns:
        The weights on the CPU, their names without what data-parallel training, torch.compile or
        Lightning put before them.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds none.
        ValueError: the file is damaged, holds no weights, or holds pickled objects, which are
            never run; or the configuration beside it cannot be read.
    """
    files = weight_parts(path) if path.is_dir() else [path]
    stored: dict[str, Any] = {}
    is_openai = False
    for file in files:
        content, is_torchscript = read_weight_file(file)
        stored.update(_state_dict(content))
        is_openai = is_openai or is_torchscript
    weights = _bare_names(path, stored)
    if not weights:
        raise InputError(f"{path} holds no state dict: no tensor with a name was found")
    for name, value in weights.items():
        _check_data(path, name, value)
    is_openai = is_openai or all(name in weights for name in _NOT_WEIGHTS)
    for name in _NOT_WEIGHTS:
        weights.pop(name, None)
    config = open_clip_config = None
    if has_hf_names(weights):
        config = config_beside(files[0])
        try:
            weights = openai_names(weights)
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}") from error
    else:
        open_clip_config = _open_clip_config_beside(files[0])
    names = tuple(stored)[:_SHOWN]
    return Checkpoint(weights, str(path), is_openai, config, open_clip_config, names)


def from_hf_model(model: Any) -> Checkpoint:
    """The weights of a ``CLIPModel`` object of Hugging Face, under OpenAI's names.

    Raises:
        UnsupportedModelError: it is another model than a CLIP.
    """
    source = f"the {type(model).__name__}"
    config = parse_config(model.config.to_dict(), source)
    weights = model.state_dict()
    return Checkpoint(openai_names(weights), source, config=config, names=tuple(weights)[:_SHOWN])


def _open_clip_config_beside(file: Path) -> Mapping[str, Any] | None:
    beside = file.parent / OPEN_CLIP_CONFIG
    if not beside.is_file():
        return None
    config = read_json(beside)
    of_model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(of_model, dict):
        raise InputError(f"{beside} must hold an object as model_cfg")
    return of_model


def _check_data(path: Path, name: str, value: Tensor) -> None:
    """A damaged shape may claim more numbers than the file holds, and any amount of memory."""
    if value.layout is not torch.strided or value.device.type != "cpu":
        raise InputError(f"{path} holds {name} as no dense tensor with data")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path} is damaged: {name} is larger than its data")


def _state_dict(content: Any) -> Mapping[str, Any]:
    """The innermost state dict of a training checkpoint; empty where there is none."""
    for _ in range(2):
        if not isinstance(content, Mapping):
            return {}
        inner = [content.get(name) for name in _CONTAINERS]
        content = next((found for found in inner if isinstance(found, Mapping)), content)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _bare_names(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, value in stored.items():
        prefix = _PREFIXES.match(name)
        bare = name[prefix.end() :] if prefix else name
        if bare in weights:
            raise InputError(f"{path} holds {bare} more than once, under different prefixes")
        weights[bare] = value
    return weights


def activation_of(checkpoint: Checkpoint, asked: bool | None) -> bool:
    """Whether the weights of a file take QuickGELU, by :func:`uses_quick_gelu`.

    Args:
        checkpoint: the file.
        asked: what the caller says; None for nothing.

    Raises:
        ValueError: the caller says otherwise than the file.
    """
    said, why = None, ""
    if checkpoint.config is not None:
        said, why = checkpoint.config.vision.quick_gelu, "as its config.json says"
    elif checkpoint.is_openai:
        said, why = True, "as the file is one of OpenAI's"
    elif checkpoint.open_clip_config is not None:
        said = bool(checkpoint.open_clip_config.get("quick_gelu"))
        why = f"as the {OPEN_CLIP_CONFIG} beside it says"
    return uses_quick_gelu(checkpoint.source, said, why, asked)


def native_side(checkpoint: Checkpoint, patch_size: int) -> int | None:
    """Side in pixels of the square photos that the weights were trained on, where that is known."""
    positions = checkpoint.weights.get("visual.positional_embedding")
    if positions is None or positions.ndim != 2 or len(positions) < 2:
        return None
    side = math.isqrt(len(positions) - 1)
    return side * patch_size if side * side == len(positions) - 1 else None


_NEEDED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "ln_final.weight": 1,
    "text_projection": 2,
}


def build_openai_vit(checkpoint: Checkpoint, quick_gelu: bool | None = None) -> nn.Module:
    """OpenAI's CLIP with a vision transformer, every size read off its weights, in float32.

    Args:
        checkpoint: weights under OpenAI's names.
        quick_gelu: what the caller says of their activation; None for nothing.

    Returns:
        An ``open_clip.CLIP``, with QuickGELU where :func:`activation_of` says so.

    Raises:
        UnsupportedModelError: the weights are those of a CLIP with a ResNet.
        ValueError: the weights are those of something else; the message says of what. Or the
            caller says another activation than the file.
    """
    weights, source = checkpoint.weights, checkpoint.source
    if "visual.layer1.0.conv1.weight" in weights:
        raise UnsupportedModelError(
            f"{source} holds a CLIP with a ResNet; only vision transformers are supported"
        )
    missing = [name for name in _NEEDED if name not in weights]
    if missing:
        raise InputError(
            f"{source} is no CLIP ViT with OpenAI's or Hugging Face's parameter names: it has no "
            f"{', '.join(missing)}. For a checkpoint of another architecture pass the "
            f"architecture's name, and the file as pretrained{_own_names(checkpoint)}"
        )
    for name, rank in _NEEDED.items():
        if weights[name].ndim != rank or 0 in weights[name].shape:
            raise InputError(
                f"{source} is no CLIP ViT: {name} has shape {tuple(weights[name].shape)}"
            )
    sizes = _sizes(checkpoint)
    # Without memory first: what does not fit together would else ask for any amount of it.
    with torch.device("meta"):
        check_fit(_build(source, sizes, quick_gelu=False), checkpoint)
    activation = activation_of(checkpoint, quick_gelu)
    if checkpoint.config is None and not checkpoint.is_openai:
        logger.warning(
            "%s does not say its heads: of %d channels each, as OpenAI's models have them. For"
            " others pass the architecture's name, and the file as pretrained",
            *(source, _HEAD_WIDTH),
        )
    model = _build(source, sizes, quick_gelu=activation)
    load_weights(model, checkpoint)
    return model


def _build(source: str, sizes: dict[str, Any], *, quick_gelu: bool) -> nn.Module:
    import open_clip

    try:
        return open_clip.CLIP(
            embed_dim=sizes["embed_dim"],
            vision_cfg=open_clip.CLIPVisionCfg(**sizes["vision"]),
            text_cfg=open_clip.CLIPTextCfg(**sizes["text"]),
            quick_gelu=quick_gelu,
        )
    # What sizes that fit no model end in: overflows and divisions by zero of several kinds.
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{source} is no CLIP ViT: {one_line(error)}") from error


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What open_clip builds a CLIP from, read off the weights."""
    weights, config = checkpoint.weights, checkpoint.config
    width, _, _, patch_size = weights["visual.conv1.weight"].shape
    text_width = len(weights["ln_final.weight"])
    heads = {
        "vision": max(width // _HEAD_WIDTH, 1) if config is None else config.vision.heads,
        "text": max(text_width // _HEAD_WIDTH, 1) if config is None else config.text.heads,
    }
    for tower, of_tower in (("vision", width), ("text", text_width)):
        if of_tower % heads[tower]:
            raise InputError(
                f"{checkpoint.source} is no CLIP ViT: its {tower} tower of width {of_tower} does"
                f" not split into {heads[tower]} heads"
            )
    return {
        "embed_dim": weights["text_projection"].shape[1],
        "vision": {
            "layers": _count_blocks(weights, "visual.transformer.resblocks."),
            "width": width,
            "head_width": width // heads["vision"],
            "mlp_ratio": _mlp_ratio(weights, "visual.transformer.resblocks.", width),
            "patch_size": patch_size,
            "image_size": native_side(checkpoint, patch_size) or patch_size,
        },
        "text": {
            "context_length": len(weights["positional_embedding"]),
            "vocab_size": len(weights["token_embedding.weight"]),
            "width": text_width,
            "heads": heads["text"],
            "mlp_ratio": _mlp_ratio(weights, "transformer.resblocks.", text_width),
            "layers": _count_blocks(weights, "transformer.resblocks."),
        },
    }


def _mlp_ratio(weights: Mapping[str, Tensor], prefix: str, width: int) -> float:
    """A factor that open_clip multiplies with the width and rounds down to the hidden width."""
    bias = weights.get(f"{prefix}0.mlp.c_fc.bias")
    # Half a channel more keeps the rounding from losing one.
    return 4.0 if bias is None or bias.ndim != 1 else (len(bias) + 0.5) / width


def apply_config(model: nn.Module, config: HFConfig, source: str) -> None:
    """Sets in an open_clip model what a config.json says beyond the weights.

    Raises:
        InputError: the model's heads are others, or it cannot do what the configuration says.
    """
    from open_clip.transformer import QuickGELU

    parts: Any = model
    for tower, layers, of_tower in (
        ("vision", parts.visual, config.vision),
        ("text", parts.transformer, config.text),
    ):
        blocks = layers.transformer.resblocks if tower == "vision" else layers.resblocks
        for block in blocks:
            if block.attn.num_heads != of_tower.heads:
                raise InputError(
                    f"{source} says {of_tower.heads} heads in its {tower} tower; the model has"
                    f" {block.attn.num_heads}"
                )
            block.mlp.gelu = QuickGELU() if of_tower.quick_gelu else nn.GELU()
        _set_epsilon(layers, of_tower)
    parts.ln_final.eps = config.text.epsilon
    if config.mean is not None and config.std is not None:
        parts.visual.image_mean, parts.visual.image_std = config.mean, config.std
    # With CLIP's vocabulary the end of a text is the largest id, which open_clip looks for.
    if config.end_of_text is not None and config.end_of_text != parts.vocab_size - 1:
        if not hasattr(parts, "text_eos_id"):
            raise InputError(
                f"{source} ends texts with the id {config.end_of_text}: update open_clip"
            )
        parts.text_pool_type, parts.text_eos_id = "eos", config.end_of_text


def _set_epsilon(tower: nn.Module, config: TowerConfig) -> None:
    for layer in tower.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = config.epsilon


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a file's weights, and what its config.json says beyond them, into a model.

    Raises:
        InputError: names or shapes differ; the message lists the first few.
    """
    check_fit(model, checkpoint)
    model.load_state_dict({name: checkpoint.weights[name] for name in model.state_dict()})
    if checkpoint.config is not None:
        apply_config(model, checkpoint.config, checkpoint.source)


def check_fit(model: nn.Module, checkpoint: Checkpoint) -> None:
    """All of the weights and nothing else go into the model.

    Raises:
        InputError: names, shapes or kinds of numbers differ; the message lists the first few.
    """
    own = model.state_dict()
    weights = checkpoint.weights
    differences = [f"no {name}" for name in own if name not in weights]
    differences += [
        f"unknown {name}"
        for name in weights
        # Added to every logit alike, as in SigLIP's loss, it changes no softmax over classes.
        if name not in own and name != "logit_bias"
    ]
    named = _own_names(checkpoint) if differences else ""
    for name in (name for name in own if name in weights):
        shape, expected = tuple(weights[name].shape), tuple(own[name].shape)
        if shape != expected:
            differences.append(f"{name} of shape {shape} instead of {expected}")
        elif own[name].is_floating_point() and not weights[name].is_floating_point():
            differences.append(f"{name} of {weights[name].dtype}, which are no plain weights")
    if differences:
        shown = "; ".join(differences[:_SHOWN]) + ("; ..." if len(differences) > _SHOWN else "")
        raise InputError(
            f"the weights in {checkpoint.source} do not fit the model in {len(differences)}"
            f" places: {shown}{named}"
        )


def _own_names(checkpoint: Checkpoint) -> str:
    """What the file calls its weights, for a message about names that do not fit."""
    return f". The file's own names begin with: {', '.join(checkpoint.names)}"


def _count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
