"""Models that open_clip knows by name: refused, reached and built with one clear message each."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from vpl_plugin.clip.activation import uses_quick_gelu
from vpl_plugin.clip.checkpoint import (
    OPEN_CLIP_CONFIG,
    Checkpoint,
    activation_of,
    load_weights,
    native_side,
    read_checkpoint,
)
from vpl_plugin.clip.one_line import one_line
from vpl_plugin.clip.vision_tower import UnsupportedModelError
from vpl_plugin.clip.weight_files import looks_like_weights
from vpl_plugin.errors import InputError

__all__ = [
    "SCHEMAS",
    "NamedModel",
    "is_architecture",
    "load_named",
    "load_schema",
]

logger = logging.getLogger(__name__)

# open_clip finds the configuration and the weights of these itself.
SCHEMAS = ("hf-hub:", "local-dir:")
# How open_clip's names say it.
_QUICK_GELU = "-quickgelu"
# The name of a model on the Hugging Face hub.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class NamedModel(NamedTuple):
    """A model and what goes with its name."""

    name: str
    module: nn.Module
    tokenizer: Callable[[list[str]], Tensor]


def is_architecture(name: str) -> bool:
    """Whether open_clip knows the name; OpenAI writes ViT-B/16 where open_clip writes ViT-B-16."""
    import open_clip

    return name.replace("/", "-").removesuffix(_QUICK_GELU) in open_clip.list_models()


def load_schema(name: str, quick_gelu: bool | None = None) -> NamedModel:
    """A model that open_clip reads from a folder ("local-dir:...") or the hub ("hf-hub:...").

    Args:
        name: with "local-dir:" or "hf-hub:" before it.
        quick_gelu: what the caller says of its activation; None for nothing.

    Raises:
        ConnectionError: the hub cannot be reached, or has no such model.
        FileNotFoundError: there is no such folder, or no open_clip_config.json in it.
        ValueError: open_clip cannot load it, or its configuration has another activation than
            the caller says.
    """
    import open_clip

    remedy = "Without a network pass local-dir: and the folder of a copy"
    if name.startswith("local-dir:"):
        remedy = ""
        config = Path(name.removeprefix("local-dir:")) / OPEN_CLIP_CONFIG
        if not config.is_file():
            raise FileNotFoundError(f"{name} has no file {config}")
    with _open_clip_errors(name, remedy):
        said = bool(open_clip.get_model_config(name).get("quick_gelu"))
    uses_quick_gelu(name, said, f"as its {OPEN_CLIP_CONFIG} says", quick_gelu)
    with _open_clip_errors(name, remedy):
        # Without weights it would go on with random ones.
        module = open_clip.create_model(name, require_pretrained=True, weights_only=True)
        return NamedModel(name, module, open_clip.get_tokenizer(name))


def load_named(
    name: str, pretrained: str | os.PathLike[str] | None, quick_gelu: bool | None = None
) -> NamedModel:
    """An architecture of open_clip with weights of a tag or a file, or with random ones.

    Args:
        name: the architecture's; "-quickgelu" behind it says the same as ``quick_gelu=True``.
        pretrained: a tag, a file or a folder; None for random weights.
        quick_gelu: what the caller says of the activation; None for nothing.

    Raises:
        ConnectionError: the weights of a tag cannot be downloaded.
        FileNotFoundError: there is no such file.
        UnsupportedModelError: the vision tower is no plain vision transformer.
        ValueError: an unknown name or tag, a file that cannot be read or does not fit, or two
            activations that contradict each other.
    """
    import open_clip

    known = open_clip.list_models()
    name = name.replace("/", "-")
    architecture = name if name in known else name.removesuffix(_QUICK_GELU)
    if architecture not in known:
        raise InputError(_unknown_model(name, known))
    config = open_clip.get_model_config(architecture)
    _check_architecture(name, config["vision_cfg"])
    own = bool(config.get("quick_gelu"))
    if own or name.endswith(_QUICK_GELU):
        if quick_gelu is False:
            raise InputError(
                f"quick_gelu=False contradicts the name {name}, which stands for QuickGELU"
            )
        quick_gelu = True
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained is None:
        logger.warning("%s gets random weights: pretrained names none", name)
        module = _create(name, architecture, force_quick_gelu=bool(quick_gelu))
    elif pretrained in tags:
        of_tag = open_clip.get_pretrained_cfg(architecture, str(pretrained))
        # open_clip leaves an architecture's own QuickGELU on, whatever the tag.
        of_weights = uses_quick_gelu(
            f"{name}, {pretrained}",
            own or bool(of_tag.get("quick_gelu")),
            "as it was trained",
            quick_gelu,
        )
        source = of_tag.get("hf_hub", "").strip("/")
        at = f" from https://huggingface.co/{source}" if _HUB_NAME.fullmatch(source) else ""
        # A bare file does not say that it was trained with GELU.
        also = "" if of_weights else " with quick_gelu=False (on the command line --no-quick-gelu)"
        remedy = (
            f"Without a network fetch the file elsewhere{at} and pass it as pretrained of {name}"
            f"{also}, or take the embedded model 'mini'"
        )
        with _open_clip_errors(f"{name} with the weights {pretrained!r}", remedy):
            module = open_clip.create_model(
                architecture,
                pretrained=pretrained,
                force_quick_gelu=of_weights,
                weights_only=True,
            )
    elif looks_like_weights(pretrained) or Path(pretrained).is_dir():
        checkpoint = read_checkpoint(Path(pretrained))
        module = _create(
            name,
            architecture,
            force_quick_gelu=activation_of(checkpoint, quick_gelu),
            **_image_size(config["vision_cfg"], checkpoint),
        )
        load_weights(module, checkpoint)
    else:
        raise InputError(
            f"pretrained {pretrained!r} is no file and no tag of {name}, whose tags are "
            f"{', '.join(tags) or 'none'}"
        )
    with _open_clip_errors(f"the tokenizer of {name}", ""):
        return NamedModel(name, module, open_clip.get_tokenizer(architecture))


def _unknown_model(name: str, known: list[str]) -> str:
    """What to say of a name that open_clip does not know."""
    by_lower_case = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name.lower(), by_lower_case, n=5, cutoff=0.5)
    close = f"Close: {', '.join(by_lower_case[match] for match in found)}. " if found else ""
    return (
        f"open_clip has no model {name!r}, and there is no such file. "
        f"{close}The embedded model is 'mini'"
    )


def _create(name: str, architecture: str, **options: Any) -> nn.Module:
    import open_clip

    with _open_clip_errors(name, ""):
        return open_clip.create_model(architecture, **options)


def _image_size(vision_config: dict[str, Any], checkpoint: Checkpoint) -> dict[str, int]:
    """The size of photo that weights were fine-tuned at, where it is not the architecture's."""
    found = native_side(checkpoint, vision_config.get("patch_size", 16))
    own = vision_config.get("image_size", 224)
    return {} if found in (None, own) or not isinstance(own, int) else {"force_image_size": found}


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
        raise UnsupportedModelError(
            f"the vision tower of {name} is {kind}; only plain vision transformers are supported, "
            "such as ViT-B-16 or ViT-L-14"
        )


@contextmanager
def _open_clip_errors(what: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong in open_clip, its readers and the hub: one error with one line."""
    try:
        with _open_clip_quiet():
            yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        chain = list(_causes(error))
        # A download that failed: open_clip puts a RuntimeError of its own over it.
        if remedy and any(isinstance(cause, OSError) for cause in chain):
            raise ConnectionError(
                f"{what} cannot be downloaded ({one_line(chain[-1])}). {remedy}"
            ) from error
        raise InputError(f"open_clip cannot load {what}: {one_line(error)}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _open_clip_quiet() -> Iterator[None]:
    """Keeps off the log what open_clip says to the root logger.

    It announces random weights before ours are loaded, repeats each error, and sets up the root
    logger on the way. What counts comes as an exception.
    """
    import open_clip

    folder = str(Path(open_clip.__file__).parent)

    def is_ours(record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(folder)

    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addFilter(is_ours)
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)
        root.removeFilter(is_ours)
