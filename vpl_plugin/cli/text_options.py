"""The options for what CLIP is given: prompts, background names, templates."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpl_plugin.errors import InputError

if TYPE_CHECKING:
    from vpl_plugin.clip.class_names import ClassNames

__all__ = ["TEXT_OPTIONS", "add_text_arguments", "changed_texts", "own_texts"]

TEXT_OPTIONS = ("texts", "prompt", "background", "template")
KEYS = ("prompts", "background", "templates")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, as a group of their own."""
    group = parser.add_argument_group("what CLIP is given")
    group.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="JSON with any of prompts (label: text, or a list of synonyms), background and"
        " templates (lists), or a .safetensors of an earlier run: its texts",
    )
    group.add_argument(
        "--prompt",
        action="append",
        metavar="LABEL=TEXT",
        help="what a class is called; several for one class are synonyms (default: CLIP-ES's"
        " prompts, and the labels themselves for classes of your own)",
    )
    group.add_argument(
        "--background", help="names with commas between, instead of the data set's (CLIP-ES's)"
    )
    group.add_argument(
        "--template",
        action="append",
        help="text with {} for the name, or one of clip_es, single, ensemble; several are averaged"
        " (default: clip_es)",
    )


def own_texts(names: ClassNames, arguments: argparse.Namespace) -> ClassNames:
    """The classes with what the options say instead; options win over the file.

    Args:
        names: of the data set.
        arguments: of :func:`add_text_arguments`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or an option cannot be read, or names a class that there is not.
    """
    # Imported here: --help should not wait for torch.
    from vpl_plugin.clip.templates import TEMPLATES

    own: dict[str, Any] = {} if arguments.texts is None else _read(arguments.texts)
    prompts = dict(zip(names.labels, names.prompts, strict=True))
    for source in (own.get("prompts", {}), _prompts(arguments.prompt or [])):
        # Asked for its message: a label that is misspelt names the one that was meant.
        names.indices(source)
        prompts.update(source)
    background = own.get("background", names.background)
    if arguments.background is not None:
        background = tuple(name.strip() for name in arguments.background.split(",") if name.strip())
    if not background:
        raise InputError("--background must hold at least one name")
    templates = arguments.template or own.get("templates", names.templates)
    return dataclasses.replace(
        names,
        prompts=tuple(prompts.values()),
        background=background,
        templates=tuple(text for word in templates for text in TEMPLATES.get(word, (word,))),
    )


def changed_texts(names: ClassNames, of_set: ClassNames) -> dict[str, Any] | None:
    """What of the texts is not the data set's, for a run's settings; None where all of it is.

    Example:
        >>> from vpl_plugin.clip import VOC
        >>> changed_texts(dataclasses.replace(VOC, background=("grass",)), VOC)
        {'background': ['grass']}
    """
    own, default = names.texts(), of_set.texts()
    changed = {key: own[key] for key in KEYS if own[key] != default[key]}
    if "prompts" in changed:
        known = default["prompts"].items()
        changed["prompts"] = dict(pair for pair in own["prompts"].items() if pair not in known)
    return changed or None


def _prompts(words: list[str]) -> dict[str, str | tuple[str, ...]]:
    """LABEL=TEXT by label; several for one label together."""
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        label, equals, text = word.partition("=")
        if not equals or not text.strip():
            raise InputError(f"--prompt must be LABEL=TEXT; got {word!r}")
        found[label.strip()] = (*found.get(label.strip(), ()), text.strip())
    return {label: texts if len(texts) > 1 else texts[0] for label, texts in found.items()}


def _read(file: Path) -> dict[str, Any]:
    """Prompts, background and templates of a file, those it has, with tuples for lists."""
    from vpl_plugin.prototypes import Prototypes

    if file.suffix == ".safetensors":
        about = Prototypes.load(file).about
        held = {key: about[key] for key in KEYS if key in about}
        if not held:
            raise InputError(f"{file} says nothing of the texts it was made from")
    else:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        try:
            held = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is not readable JSON: {error}") from error
        if not isinstance(held, dict) or not held or not held.keys() <= {*KEYS}:
            got = sorted(held) if isinstance(held, dict) else type(held).__name__
            raise InputError(f"{file} must hold an object with any of {', '.join(KEYS)}; got {got}")
    prompts = held.get("prompts", {})
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) or _is_texts(text) for text in prompts.values()
    ):
        raise InputError(f"{file}: prompts must hold a text, or a list of them, for each label")
    for key in ("background", "templates"):
        if key in held and not _is_texts(held[key]):
            raise InputError(f"{file}: {key} must be a list of texts; got {held[key]!r}")
    own: dict[str, Any] = {key: tuple(held[key]) for key in KEYS[1:] if key in held}
    own["prompts"] = {
        label: text if isinstance(text, str) else tuple(text) for label, text in prompts.items()
    }
    return own


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
