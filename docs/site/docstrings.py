"""Docstrings as the site shows them: roles become links, equations become arithmatex."""

from __future__ import annotations

import re
import textwrap

import griffe

ROLE = re.compile(r":(?:class|data|func|meth|mod):`(~?)([\w.]+)`")
PAGE = re.compile(r"\bdocs/(\w+)\.md\b")
INLINE_MATH = re.compile(r":math:`([^`]+)`")
# A directive with what stands on its line, and the lines indented below it.
MATH = re.compile(r"^\.\. math::(.*(?:\n+ +.*)*)$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Prepares every docstring of the package, and puts adapters/ where it is installed."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: object) -> None:
        """The whole package is loaded; adapters/ lies beside it in the checkout."""
        if pkg.name != "vpl_plugin":
            return
        adapters = loader.load("adapters", try_relative_path=False)
        pkg.set_member("adapters", adapters)
        prepare(pkg)


def prepare(obj: griffe.Object) -> None:
    """Rewrites the docstrings of an object and of all below it."""
    if obj.docstring:
        text = MATH.sub(display_math, obj.docstring.value)
        text = INLINE_MATH.sub(r"\\(\1\\)", text)
        text = ROLE.sub(lambda role: link(obj, role), text)
        text = PAGE.sub(r"[\g<0>](../\1.md)", text)
        # Google's plural is the section that holds doctests; the singular is an admonition.
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    for member in obj.members.values():
        if not member.is_alias:
            prepare(member)


def display_math(directive: re.Match[str]) -> str:
    """The equation of a directive as a block of its own."""
    first, _, rest = directive.group(1).partition("\n")
    latex = f"{first.strip()}\n{textwrap.dedent(rest)}".strip()
    return f"\n\\[\n{latex}\n\\]\n"


def link(obj: griffe.Object, role: re.Match[str]) -> str:
    """A link where the reference shows what the role names, code where it does not."""
    short, name = role.groups()
    try:
        path = name if name.startswith("vpl_plugin.") else obj.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{path}">`{shown}`</autoref>'
