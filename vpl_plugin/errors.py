"""The error of bad input, without torch: commands catch it before they load anything."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "unknown"]


class InputError(ValueError):
    """What a user gave does not fit: an argument, an option or a file.

    Commands report it in one line. Any other ValueError is a bug, and keeps its traceback.

    Example:
        >>> import torch
        >>> from vpl_plugin import learn_vision_prototypes
        >>> learn_vision_prototypes(torch.ones(5, 2), torch.eye(2), tau_I=0.0)
        Traceback (most recent call last):
        vpl_plugin.errors.InputError: tau_I must be a finite number above 0; got 0.0
    """


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error of a name that does not exist: it lists those that do, and the nearest of them.

    Example:
        >>> print(unknown("solver", "agpd", ["apgd", "pgd"]))
        unknown solver 'agpd'; these exist: 'apgd', 'pgd'; did you mean 'apgd'?
    """
    choices = list(choices)
    near = difflib.get_close_matches(str(name), choices, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(
        f"unknown {kind} {name!r}; these exist: {', '.join(map(repr, choices))}{meant}"
    )
