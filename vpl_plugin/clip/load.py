"""Loading a CLIP model by name, from a file, or from an object the caller holds."""

from __future__ import annotations

import copy
import difflib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpl_plugin.clip.checkpoint import build_openai_vit, load_weights, read_checkpoint
from vpl_plugin.clip.mini import load_mini
from vpl_plugin.clip.model import ClipModel

__all__ = ["load_clip"]

logger = logging.getLogger(__name__)

_MINI = "mini"
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# open_clip finds the configuration and the weights of these itself.
_SCHEMAS = ("hf-hub:", "local-dir:")

Tokenizer = Callable[[list[str]], Tensor]


def load_clip(
    name_or_path: str | os.PathLike[str] | nn.Module | ClipModel = _MINI,
    pretrained: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: Tokenizer | None = None,
) -> ClipModel:
    """Load a CLIP model with a vision transformer, frozen and in eval mode.

    Args:
        name_or_path: one of

            - ``"mini"``, the model embedded in this package;
            - the name of an open_clip ViT ("ViT-B-16"; also "hf-hub:..." and "local-dir:...");
            - the path of one of OpenAI's ``.pt`` files, or of a state dict with its parameter
              names. QuickGELU is taken for granted there, which such a file does not note: for a
              checkpoint trained by open_clip pass the architecture's name and the file as
              ``pretrained``;
            - a model object of open_clip. It shares its weights with the result and is left as
              it is: neither frozen, nor moved, nor converted;
            - a :class:`ClipModel`, which is returned, moved if ``device`` is given.
        pretrained: for an open_clip name, its weights: a tag that open_clip lists ("openai",
            "laion2b_s34b_b88k") or a file. QuickGELU is switched on where the tag was trained
            with it. None leaves the weights random, which is logged as a warning.
        device: CUDA where there is one, else the CPU; a model object stays where it is.
        dtype: what the vision tower computes in; layer norms and texts stay in float32.
        tokenizer: maps a list of T texts to token ids (T, context), for models with a
            vocabulary other than CLIP's. open_clip names bring their own.

    Returns:
        The model.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: the vision tower is no plain vision transformer, or ``name_or_path`` is
            something else than listed.
        ValueError: an unknown name or tag, a file that cannot be read or does not fit,
            ``pretrained`` beside anything but an open_clip name, or a device that is not there.

    Example:
        >>> model = load_clip("mini", device="cpu")
        >>> model.patch_size, model.embed_dim, round(model.logit_scale)
        (16, 256, 100)
    """
    if device is not None:
        _check_device(device)
    if isinstance(name_or_path, ClipModel):
        _refuse_pretrained(pretrained, "a ClipModel")
        return name_or_path if device is None else name_or_path.to(device)
    if isinstance(name_or_path, nn.Module):
        _refuse_pretrained(pretrained, "a model object")
        _check_model_object(name_or_path)
        name, module = type(name_or_path).__name__, _shared_weights(name_or_path)
    elif not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            "name_or_path must be 'mini', the name of an open_clip model, a path, a model object "
            f"or a ClipModel, got {name_or_path!r}"
        )
    elif name_or_path == _MINI:
        _refuse_pretrained(pretrained, "'mini'")
        name, module = _MINI, load_mini()
    elif _is_file(name_or_path):
        _refuse_pretrained(pretrained, "a file")
        path = Path(name_or_path)
        name, module = path.stem, build_openai_vit(read_checkpoint(path))
    else:
        name, module, own_tokenizer = _open_clip_model(str(name_or_path), pretrained)
        tokenizer = tokenizer or own_tokenizer
    model = ClipModel(module, name=name, tokenizer=tokenizer, dtype=dtype)
    if device is None and isinstance(name_or_path, nn.Module):
        return model
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_device(device: torch.device | str) -> None:
    """Refuse a device that cannot be used, before any weights are downloaded."""
    try:
        torch.empty(0, device=device)
    # A torch without CUDA asserts that it has it.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used here: {error}") from error


def _refuse_pretrained(pretrained: object, what: str) -> None:
    if pretrained is not None:
        raise ValueError(
            f"pretrained goes with the name of an open_clip model; got {pretrained!r} beside {what}"
        )


def _check_model_object(module: nn.Module) -> None:
    missing = [
        part for part in ("visual", "encode_text", "logit_scale") if not hasattr(module, part)
    ]
    if missing:
        raise TypeError(
            f"the model object must be a CLIP model of open_clip; {type(module).__qualname__} has "
            f"no {', '.join(missing)}"
        )


def _shared_weights(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters share storage with the original's."""
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in module.parameters()
    }
    shared.update((id(buffer), buffer) for buffer in module.buffers())
    return copy.deepcopy(module, shared)


def _is_file(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant: what exists, looks like a file with weights, or is no string."""
    path = Path(name_or_path)
    return not isinstance(name_or_path, str) or path.is_file() or path.suffix in _WEIGHT_SUFFIXES


def _open_clip_model(
    name: str, pretrained: str | os.PathLike[str] | None
) -> tuple[str, nn.Module, Tokenizer]:
    import open_clip

    if name.startswith(_SCHEMAS):
        _refuse_pretrained(pretrained, name)
        return name, open_clip.create_model(name), open_clip.get_tokenizer(name)
    # OpenAI writes ViT-B/16 where open_clip writes ViT-B-16.
    name = name.replace("/", "-")
    names = open_clip.list_models()
    if name not in names:
        raise ValueError(
            f"open_clip has no model {name!r}, and there is no such file. "
            f"{_close_matches(name, names)}The embedded model is 'mini'"
        )
    _check_architecture(name, open_clip.get_model_config(name)["vision_cfg"])
    tokenizer = open_clip.get_tokenizer(name)
    if pretrained is None:
        logger.warning("%s gets random weights: pretrained names none", name)
        return name, open_clip.create_model(name), tokenizer
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        quick_gelu = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
        module = open_clip.create_model(
            name, pretrained=pretrained, force_quick_gelu=quick_gelu, weights_only=True
        )
        return name, module, tokenizer
    if not _is_file(pretrained):
        raise ValueError(
            f"pretrained {pretrained!r} is no file and no tag of {name}, whose tags are "
            f"{', '.join(tags) or 'none'}"
        )
    checkpoint = read_checkpoint(Path(pretrained))
    # Only OpenAI distributes TorchScript archives, and its models have QuickGELU.
    module = open_clip.create_model(name, force_quick_gelu=checkpoint.is_torchscript)
    load_weights(module, checkpoint)
    return name, module, tokenizer


def _check_architecture(name: str, vision_config: dict[str, Any]) -> None:
    """Refuse what the vision tower would refuse, before any weights are downloaded."""
    kind = None
    if vision_config.get("timm_model_name"):
        kind = f"the timm model {vision_config['timm_model_name']}"
    elif isinstance(vision_config.get("layers"), list):
        kind = "a ResNet"
    elif vision_config.get("attentional_pool"):
        kind = "a vision transformer with attentional pooling"
    if kind is not None:
        raise TypeError(
            f"the vision tower of {name} is {kind}; only plain vision transformers are supported, "
            "such as ViT-B-16 or ViT-L-14"
        )


def _close_matches(name: str, names: list[str]) -> str:
    by_lower_case = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=5, cutoff=0.5)
    return f"Close: {', '.join(by_lower_case[match] for match in close)}. " if close else ""
