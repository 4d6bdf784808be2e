"""CLIP as Hugging Face's transformers has it: its parameter names, its config.json, its folders.

transformers itself is needed for a tokenizer other than CLIP's alone, and imported for that only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vpl_plugin.clip.one_line import one_line
from vpl_plugin.clip.vision_tower import UnsupportedModelError
from vpl_plugin.errors import InputError

__all__ = [
    "HFConfig",
    "TowerConfig",
    "config_beside",
    "fetch_folder",
    "folder_tokenizer",
    "has_hf_names",
    "is_hf_model",
    "openai_names",
    "parse_config",
    "read_json",
    "weight_parts",
]

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
# As save_pretrained writes them; the first that is there is taken.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Any of these holds a tokenizer.
_TOKENIZERS = ("tokenizer.json", "vocab.json")

_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
# In configurations older than transformers' notion of an end-of-text id it is this one.
_LEGACY_EOS = 2


class TowerConfig(NamedTuple):
    """What the weights of a tower do not say.

    Attributes:
        heads: of its attention.
        quick_gelu: its activation is QuickGELU, else GELU.
        epsilon: of its layer norms.
    """

    heads: int
    quick_gelu: bool
    epsilon: float


class HFConfig(NamedTuple):
    """What a config.json says of a CLIP beyond its weights.

    Attributes:
        vision, text: of the towers.
        end_of_text: the id at which a text's embedding is read off; None is the largest id.
        mean, std: of the pixels, where a preprocessor_config.json names them.
    """

    vision: TowerConfig
    text: TowerConfig
    end_of_text: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def is_hf_model(model: object) -> bool:
    """Whether a model object is one of transformers'."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)


def has_hf_names(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights go by the names that transformers gives CLIP's parts."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in weights)


def parse_config(config: Any, where: str) -> HFConfig:
    """A configuration of transformers, as its config.json holds it.

    Args:
        config: the JSON object.
        where: what messages call it.

    Raises:
        UnsupportedModelError: it describes another model than a CLIP.
        InputError: it does not hold what a CLIP's holds.

    Example:
        >>> config = {"model_type": "clip", "text_config": {}, "vision_config": {}}
        >>> parse_config(config, "config.json").vision
        TowerConfig(heads=12, quick_gelu=True, epsilon=1e-05)
    """
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if kind is None:
        raise InputError(f"{where} is no configuration of a model: it has no model_type")
    if kind != "clip":
        raise UnsupportedModelError(
            f"{where} describes a model of type {kind!r}; of Hugging Face's models only CLIP"
            " ('clip'), whose vision tower is a plain vision transformer, is supported"
        )
    vision, text = (_tower(config, name, where) for name in ("vision", "text"))
    end_of_text = _section(config, "text", where).get("eos_token_id", _LEGACY_EOS)
    if end_of_text == _LEGACY_EOS or not isinstance(end_of_text, int):
        end_of_text = None
    return HFConfig(vision, text, end_of_text)


def _section(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section = config.get(f"{name}_config") or {}
    # Older files hold what they set themselves once more, and transformers prefers it.
    own = config.get(f"{name}_config_dict") or {}
    if not isinstance(section, Mapping) or not isinstance(own, Mapping):
        raise InputError(f"{where} must hold an object as {name}_config")
    return {**section, **own}


def _tower(config: Mapping[str, Any], name: str, where: str) -> TowerConfig:
    section = _section(config, name, where)
    # What stands at its default may be left out of the file.
    heads = section.get("num_attention_heads", 12 if name == "vision" else 8)
    activation = section.get("hidden_act", "quick_gelu")
    epsilon = section.get("layer_norm_eps", 1e-5)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise InputError(f"{where}: num_attention_heads must be 1 or more, got {heads!r}")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        known = " or ".join(map(repr, _ACTIVATIONS))
        raise InputError(f"{where}: hidden_act must be {known}, got {activation!r}")
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < 1:
        raise InputError(f"{where}: layer_norm_eps must lie in [0, 1), got {epsilon!r}")
    return TowerConfig(heads, _ACTIVATIONS[activation], float(epsilon))


def config_beside(weights: Path) -> HFConfig | None:
    """What the config.json in the folder of a file with weights says; None without one.

    Raises:
        UnsupportedModelError: it describes another model than a CLIP.
        InputError: it cannot be read, or does not hold what a CLIP's holds.
    """
    file = weights.parent / CONFIG
    if not file.is_file():
        return None
    config = parse_config(read_json(file), str(file))
    pixels = weights.parent / PREPROCESSOR
    if not pixels.is_file():
        return config
    stored = read_json(pixels)
    mean, std = (
        _channels(stored.get(key) if isinstance(stored, dict) else None, key, pixels)
        for key in ("image_mean", "image_std")
    )
    return config._replace(mean=mean, std=std)


def _channels(value: Any, key: str, file: Path) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in value
    )
    if not numbers or len(value) != 3 or (key == "image_std" and min(value) <= 0):
        raise InputError(f"{file}: {key} must be three numbers, above 0 for image_std; got {value}")
    return tuple(map(float, value))


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is not readable JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not readable JSON: {error}") from error


def weight_parts(folder: Path) -> list[Path]:
    """The files with weights of a folder that ``save_pretrained`` wrote; several where it split.

    Raises:
        FileNotFoundError: there are none.
        InputError: the list of the parts is broken.
    """
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{folder} holds no weights of Hugging Face: none of {', '.join(WEIGHTS)}"
        )
    if file.suffix != ".json":
        return [file]
    index = read_json(file)
    parts = index.get("weight_map") if isinstance(index, dict) else None
    names = list(parts.values()) if isinstance(parts, dict) else []
    # A name with a folder in it could lead anywhere.
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{file} must name the files beside it as weight_map")
    return [folder / name for name in dict.fromkeys(names)]


def openai_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under OpenAI's names, which are open_clip's too.

    Queries, keys and values become one matrix, and projections are transposed. What has no
    counterpart keeps its name.

    Raises:
        InputError: parts that belong together differ in shape.

    Example:
        >>> import torch
        >>> list(openai_names({"vision_model.encoder.layers.0.mlp.fc1.bias": torch.zeros(4)}))
        ['visual.transformer.resblocks.0.mlp.c_fc.bias']
    """
    renamed: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        # Not weights: the indices 0, 1, 2, ..., which older versions stored.
        if name.endswith("embeddings.position_ids"):
            continue
        if name in ("visual_projection.weight", "text_projection.weight"):
            renamed[_PLAIN[name]] = value.t() if value.ndim == 2 else value
        elif name in _PLAIN:
            renamed[_PLAIN[name]] = value
        elif match := _LAYER.fullmatch(name):
            tower, layer, part = match.groups()
            block = f"{_TOWERS[tower]}transformer.resblocks.{layer}."
            if third := _THIRD.fullmatch(part):
                which, kind = third.groups()
                thirds.setdefault(f"{block}attn.in_proj_{kind}", {})[which] = value
            else:
                stem, _, kind = part.rpartition(".")
                renamed[f"{block}{_PARTS.get(stem, stem)}.{kind}"] = value
        else:
            renamed[name] = value
    for name, of_block in thirds.items():
        shapes = {tuple(part.shape) for part in of_block.values()}
        if len(of_block) < 3 or len(shapes) > 1 or () in shapes:
            held = {which: tuple(part.shape) for which, part in sorted(of_block.items())}
            raise InputError(f"{name} takes q, k and v of one shape; the weights hold {held}")
        renamed[name] = torch.cat([of_block[which] for which in "qkv"])
    return renamed


_TOWERS = {"vision": "visual.", "text": ""}
_PLAIN = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # Misspelt in transformers.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)")
_THIRD = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")
_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def fetch_folder(repository: str) -> Path:
    """A CLIP of the Hugging Face hub, downloaded unless it is in the hub's cache.

    Args:
        repository: "organisation/name".

    Returns:
        The folder in the cache that holds its config.json and weights.

    Raises:
        ConnectionError: the hub cannot be reached and the cache does not hold the model, or the
            hub has no such model, or not for everyone.
        UnsupportedModelError: the model is no CLIP; its weights are not downloaded then.
        InputError: its configuration cannot be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        config = Path(hf_hub_download(repository, CONFIG))
        parse_config(read_json(config), f"{CONFIG} of {repository}")
        for name in (PREPROCESSOR, *WEIGHTS):
            try:
                found = Path(hf_hub_download(repository, name))
            # Also where the hub cannot be reached and the cache does not hold this file.
            except EntryNotFoundError:
                continue
            if name.endswith(".index.json"):
                for part in weight_parts(found.parent):
                    hf_hub_download(repository, part.name)
            if name in WEIGHTS:
                return found.parent
    except (OSError, EntryNotFoundError) as error:
        raise ConnectionError(_unreachable(repository, error)) from error
    raise ConnectionError(_unreachable(repository, f"no {' or '.join(WEIGHTS)}"))


def _unreachable(repository: str, reason: object) -> str:
    return (
        f"{repository!r} is neither a file nor a folder here, and cannot be had from"
        f" https://huggingface.co ({one_line(reason)}). Without a network pass"
        " the folder of a copy instead, or the embedded model 'mini'"
    )


def folder_tokenizer(source: str, context: int) -> Callable[[list[str]], Tensor]:
    """The tokenizer that transformers finds in a folder, or under a name on the hub.

    Args:
        source: the folder or the name.
        context: length of a row of ids.

    Raises:
        ImportError: transformers is not installed.
        InputError: there is no tokenizer.
    """
    folder = Path(source)
    # Of a folder without one transformers makes an empty tokenizer.
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZERS):
        raise InputError(
            f"there is no tokenizer in {source}: none of {', '.join(_TOKENIZERS)}. Its vocabulary"
            " is not CLIP's: pass tokenizer="
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"the tokenizer of {source} needs transformers: pip install 'vpl_plugin[hf]', or pass"
            " tokenizer="
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise InputError(f"there is no tokenizer in {source}: {one_line(error)}") from error

    def tokenize(texts: list[str]) -> Tensor:
        rows = tokenizer(
            texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt"
        )
        return rows["input_ids"]

    return tokenize
