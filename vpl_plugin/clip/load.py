"""Loading a CLIP model by name, from a file, or from an object the caller holds."""

from __future__ import annotations

import copy
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpl_plugin.clip.checkpoint import (
    OPEN_CLIP_CONFIG,
    build_openai_vit,
    from_hf_model,
    read_checkpoint,
)
from vpl_plugin.clip.hugging_face import fetch_folder, folder_tokenizer, is_hf_model
from vpl_plugin.clip.mini import load_mini
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.open_clip_models import (
    SCHEMAS,
    is_architecture,
    load_named,
    load_schema,
)
from vpl_plugin.clip.tokenizer import CLIP_VOCABULARY
from vpl_plugin.clip.weight_files import looks_like_weights
from vpl_plugin.errors import InputError

__all__ = ["load_clip"]

_MINI = "mini"
# The name of a model on the Hugging Face hub.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Tokenizer = Callable[[list[str]], Tensor]


def load_clip(
    name_or_path: str | os.PathLike[str] | nn.Module | ClipModel = _MINI,
    pretrained: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    tokenizer: Tokenizer | None = None,
    quick_gelu: bool | None = None,
) -> ClipModel:
    """Load a CLIP model with a vision transformer, frozen and in eval mode.

    Args:
        name_or_path: one of

            - ``"mini"``, the model embedded in this package;
            - the name of an open_clip ViT ("ViT-B-16"; also "hf-hub:..." and "local-dir:..."),
              where "-quickgelu" behind it says the same as ``quick_gelu=True``;
            - a file: one of OpenAI's ``.pt`` files, or a state dict with its parameter names or
              with Hugging Face's (``model.safetensors``, ``pytorch_model.bin``);
            - a folder that ``save_pretrained`` wrote, or its name on the Hugging Face hub
              ("openai/clip-vit-base-patch16");
            - a model object of open_clip. It shares its weights with the result and is left as
              it is: neither frozen, nor moved, nor converted;
            - a ``CLIPModel`` of Hugging Face's transformers, whose weights are copied;
            - a :class:`ClipModel`, which is returned, moved if ``device`` is given. With another
              ``dtype`` or a ``tokenizer`` the result is another one, which shares its weights
              where the dtype is the same, and the one passed stays as it is.
        pretrained: for an open_clip name, its weights: a tag that open_clip lists ("openai",
            "laion2b_s34b_b88k"), or a file or folder as above. None leaves the weights random,
            which is logged as a warning.
        device: CUDA where there is one, else the CPU; a model object stays where it is.
        dtype: what the vision tower computes in, float32 by default; layer norms and texts stay
            in float32.
        tokenizer: maps a list of T texts to token ids (T, context), for models with a
            vocabulary other than CLIP's. open_clip names and Hugging Face's folders bring their
            own (the latter takes the extra ``hf``).
        quick_gelu: the activation of weights that do not say theirs, such as a bare state dict:
            True for QuickGELU, False for GELU. None takes them for OpenAI's or descendants of
            them, with QuickGELU, whether an architecture's name stands beside the file or not.

    OpenAI's archives, Hugging Face's config.json, open_clip's configurations and its tags say the
    activation themselves. It is logged which one it is and why.

    Returns:
        The model.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: weights are to be downloaded, and cannot be.
        UnsupportedModelError: the vision tower is no plain vision transformer. It is a TypeError
            and an InputError.
        TypeError: ``name_or_path`` is something else than listed.
        ValueError: an unknown name or tag, a file that cannot be read or does not fit,
            ``pretrained`` beside anything but an open_clip name, ``quick_gelu`` against what the
            weights or the name say or beside a model that has its activation, or a device that
            is not there.
        ImportError: the tokenizer takes transformers, which is not installed.

    Example:
        >>> model = load_clip("mini", device="cpu")
        >>> model.patch_size, model.embed_dim, round(model.logit_scale)
        (16, 256, 100)
    """
    if device is not None:
        _check_device(device)
    if quick_gelu is not None and not isinstance(quick_gelu, bool):
        raise TypeError(f"quick_gelu must be True, False or None; got {_shown(quick_gelu)}")
    if isinstance(name_or_path, ClipModel):
        _refuse_pretrained(pretrained, "a ClipModel")
        _refuse_quick_gelu(quick_gelu, "a ClipModel")
        model = _changed(name_or_path, dtype, tokenizer)
        return model if device is None else model.to(device)
    if isinstance(name_or_path, nn.Module):
        _refuse_pretrained(pretrained, "a model object")
        _refuse_quick_gelu(quick_gelu, "a model object")
        name, module = _of_object(_unwrapped(name_or_path))
    elif not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            "name_or_path must be 'mini', the name of a model, a path, a model object or a"
            f" ClipModel, got {_shown(name_or_path)}"
        )
    elif name_or_path == _MINI:
        _refuse_pretrained(pretrained, "'mini'")
        _refuse_quick_gelu(quick_gelu, "'mini'")
        name, module = _MINI, load_mini()
    else:
        name, module, own_tokenizer = _named_or_stored(
            name_or_path, pretrained, tokenizer, quick_gelu
        )
        tokenizer = tokenizer or own_tokenizer
    model = ClipModel(module, name=name, tokenizer=tokenizer, dtype=dtype or torch.float32)
    if device is None and isinstance(name_or_path, nn.Module):
        return model
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _changed(model: ClipModel, dtype: torch.dtype | None, tokenizer: Tokenizer | None) -> ClipModel:
    """The model itself where nothing else is asked for, else another that shares its weights."""
    if tokenizer is None and dtype in (None, model.dtype):
        return model
    return ClipModel(
        _shared_weights(model.module),
        name=model.name,
        tokenizer=tokenizer or model.tokenizer,
        dtype=dtype or model.dtype,
    )


def _named_or_stored(
    name_or_path: str | os.PathLike[str],
    pretrained: str | os.PathLike[str] | None,
    tokenizer: Tokenizer | None,
    quick_gelu: bool | None,
) -> tuple[str, nn.Module, Tokenizer | None]:
    """What a path or a name stands for, with its tokenizer where it is not CLIP's."""
    path, name = Path(name_or_path), str(name_or_path)
    if name.startswith(SCHEMAS):
        _refuse_pretrained(pretrained, name)
        return load_schema(name, quick_gelu)
    if (path / OPEN_CLIP_CONFIG).is_file():
        _refuse_pretrained(pretrained, "a folder")
        return load_schema(f"local-dir:{path}", quick_gelu)
    named = is_architecture(name)
    if looks_like_weights(name_or_path) or (name and path.is_dir() and not named):
        _refuse_pretrained(pretrained, "a folder" if path.is_dir() else "a file")
        title = path.resolve().name if path.is_dir() else path.stem
        return title, *_stored(path, str(path), tokenizer, quick_gelu)
    if named or not _HUB_NAME.fullmatch(name):
        return load_named(name, pretrained, quick_gelu)
    _refuse_pretrained(pretrained, name)
    return name, *_stored(fetch_folder(name), name, tokenizer, quick_gelu)


def _stored(
    path: Path, source: str, tokenizer: Tokenizer | None, quick_gelu: bool | None
) -> tuple[nn.Module, Tokenizer | None]:
    """The model of a file or folder; the tokenizer of its folder where CLIP's does not fit."""
    module: Any = build_openai_vit(read_checkpoint(path), quick_gelu)
    if tokenizer is None and module.vocab_size != CLIP_VOCABULARY and path.is_dir():
        tokenizer = folder_tokenizer(source, module.context_length)
    return module, tokenizer


def _check_device(device: torch.device | str) -> None:
    """Refuse a device that cannot be used, before any weights are downloaded."""
    try:
        torch.empty(0, device=device)
    # A torch without CUDA asserts that it has it.
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {error}") from error


def _refuse_pretrained(pretrained: object, what: str) -> None:
    if pretrained is not None:
        raise InputError(
            f"pretrained goes with the name of an open_clip model; got {pretrained!r} beside {what}"
        )


def _refuse_quick_gelu(quick_gelu: bool | None, what: str) -> None:
    if quick_gelu is not None:
        raise InputError(
            "quick_gelu goes with the name of a model or with a file of weights; got"
            f" quick_gelu={quick_gelu} beside {what}, which has its activation"
        )


def _shown(value: object) -> str:
    """What a message says of an object that is none of those expected."""
    if isinstance(value, tuple) and any(isinstance(part, nn.Module) for part in value):
        return (
            "a tuple with a model in it, such as open_clip.create_model_and_transforms returns:"
            " pass the model alone, its first item"
        )
    if isinstance(value, (str, bytes, int, float)):
        return reprlib.repr(value)
    return f"an object of type {type(value).__qualname__}"


def _of_object(module: nn.Module) -> tuple[str, nn.Module]:
    """A name for a model object, and a model of open_clip that is not the object itself."""
    name = type(module).__name__
    if is_hf_model(module):
        device = next(module.parameters()).device
        return name, build_openai_vit(from_hf_model(module)).to(device)
    missing = [
        part for part in ("visual", "encode_text", "logit_scale") if not hasattr(module, part)
    ]
    if missing:
        raise TypeError(
            f"the model object must be a CLIP model of open_clip or of Hugging Face; {name} has no"
            f" {', '.join(missing)}"
        )
    return name, _shared_weights(module)


def _shared_weights(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters share storage with the original's."""
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in module.parameters()
    }
    shared.update((id(buffer), buffer) for buffer in module.buffers())
    return copy.deepcopy(module, shared)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The model inside what torch.compile or data-parallel training put around it."""
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(module, wrapper, None)
        if isinstance(inner, nn.Module):
            return _unwrapped(inner)
    return module
