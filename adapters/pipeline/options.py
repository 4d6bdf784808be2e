"""Command-line options from a settings dataclass or a function: names, types, defaults, help."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from vpl_plugin.errors import InputError

__all__ = ["add_options", "described", "given_options", "option", "settings_of"]

T = TypeVar("T")
# What an option can be read as.
KINDS = (bool, int, float, str)


def option(
    default: Any = dataclasses.MISSING,
    *,
    group: str = "",
    none: str = "",
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A field of a settings dataclass, with what its option needs beyond its type and default.

    Args:
        default: of the field.
        group: the heading in --help from this field on.
        none: the word on the command line that stands for None.
        factory: makes the default.
    """
    metadata = {"group": group, "none": none}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def add_options(
    parser: argparse._ActionsContainer,
    source: Callable[..., Any],
    *,
    leave_out: Collection[str] = (),
) -> None:
    """An option for each field of a dataclass, or for each parameter of a function.

    The help of an option is what the docstring says of the attribute or argument. An option that is
    not given does not appear among the arguments, so that the default in the code holds. What has
    a type that no word can be read as is no option.

    Args:
        parser: gets the options.
        source: a dataclass, or a typed function.
        leave_out: names that the command sets by itself.
    """
    about = described(source)
    group: argparse._ActionsContainer = parser
    for field in _fields(source):
        if field.metadata.get("group"):
            # Only a parser, and no group, can hold groups.
            group = parser.add_argument_group(field.metadata["group"])
        if field.name in leave_out or field.kind is None:
            continue
        name = f"--{field.name.replace('_', '-')}"
        text = f"{about.get(field.name, '').rstrip('.')}{_default(field)}".replace("%", "%%")
        if field.kind is bool:
            # What is on by default can be switched off.
            action = argparse.BooleanOptionalAction if field.default else "store_true"
            group.add_argument(name, action=action, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(
                name,
                type=_parser(field.kind, field.metadata.get("none", "")),
                nargs="+" if field.many else None,
                default=argparse.SUPPRESS,
                help=text,
            )


def given_options(arguments: argparse.Namespace, source: Callable[..., Any]) -> dict[str, Any]:
    """Those of the options of :func:`add_options` that were given."""
    names = {field.name for field in _fields(source)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }


def settings_of(arguments: argparse.Namespace, settings: Callable[..., T], **own: Any) -> T:
    """The settings asked for.

    Args:
        arguments: of :func:`add_options`.
        settings: the same dataclass or function.
        **own: what the command sets by itself.

    Raises:
        ValueError: a setting is out of range.
    """
    try:
        return settings(**{**given_options(arguments, settings), **own})
    except InputError as error:
        # The settings name a field, whoever types it an option.
        name, _, rest = str(error).partition(" ")
        if name not in {field.name for field in _fields(settings)} | vars(arguments).keys():
            raise
        raise InputError(f"--{name.replace('_', '-')} {rest}") from error


def described(source: Any) -> dict[str, str]:
    """What a docstring says of each argument or attribute, in one line.

    Example:
        >>> class Settings:
        ...     '''Of a run.
        ...
        ...     Attributes:
        ...         power: of the background
        ...             score.
        ...     '''
        >>> described(Settings)
        {'power': 'of the background score.'}
    """
    found: dict[str, str] = {}
    owners = reversed(source.__mro__) if isinstance(source, type) else [source]
    for owner in owners:
        _, _, entries = re.sub(
            r"(?:Attributes|Args):\n", "\0", inspect.cleandoc(owner.__doc__ or ""), count=1
        ).partition("\0")
        name = ""
        for line in entries.splitlines():
            start = re.match(r" {4}(\w+): (.*)", line)
            if start:
                name = start[1]
                found[name] = start[2]
            elif name and line.startswith(" " * 8):
                found[name] += f" {line.strip()}"
            elif line.strip():
                break
    # References read as names, code as it is typed.
    return {
        name: re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
        for name, text in found.items()
    }


class _Field(NamedTuple):
    """A field or parameter; its kind is None where it is no option."""

    name: str
    kind: Any
    many: bool
    default: Any
    metadata: Mapping[str, Any]


def _fields(source: Any) -> Iterator[_Field]:
    empty = inspect.Parameter.empty
    hints = typing.get_type_hints(source)
    if dataclasses.is_dataclass(source):
        for field in dataclasses.fields(source):
            default = field.default if field.default is not dataclasses.MISSING else empty
            if field.default_factory is not dataclasses.MISSING:
                default = None
            yield _Field(field.name, *_kind(hints[field.name]), default, field.metadata)
    else:
        for name, parameter in inspect.signature(source).parameters.items():
            yield _Field(name, *_kind(hints[name]), parameter.default, {})


def _kind(hint: Any) -> tuple[Any, bool]:
    """What one value is read as, and whether there are several of them."""
    parts = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(parts[0]) is tuple:
        return typing.get_args(parts[0])[0], True
    kind = next((part for part in parts if part in KINDS), None)
    # Paths are given as text; what takes them makes them paths.
    return kind or next((part for part in parts if hasattr(part, "suffix")), None), False


def _default(field: _Field) -> str:
    value = field.default
    if value is None or value is inspect.Parameter.empty or isinstance(value, bool):
        return ""
    return f" (default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"


def _parser(kind: Any, none: str) -> Any:
    if not none:
        return kind

    def parse(word: str) -> Any:
        return None if word == none else kind(word)

    # What argparse calls it where a word cannot be read.
    parse.__name__ = kind.__name__
    return parse
