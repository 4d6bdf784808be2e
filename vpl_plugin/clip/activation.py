"""Which activation weights were trained with: one rule, whatever they are loaded by."""

from __future__ import annotations

import logging

from vpl_plugin.errors import InputError

__all__ = ["uses_quick_gelu"]

logger = logging.getLogger(__name__)

_NAMES = {True: "QuickGELU", False: "GELU"}


def uses_quick_gelu(what: str, said: bool | None, why: str, asked: bool | None) -> bool:
    """Whether weights take QuickGELU, and logs why.

    What is noted with the weights decides, else the caller, else they are taken for OpenAI's or
    descendants of them, with QuickGELU.

    Args:
        what: the weights, in messages.
        said: what is noted with the weights; None where nothing is.
        why: where it is noted, after a comma: "as its config.json says".
        asked: what the caller says; None for nothing.

    Raises:
        ValueError: the caller says otherwise than the weights.

    Example:
        >>> uses_quick_gelu("tuned.pt", None, "", None)
        True
        >>> uses_quick_gelu("tuned.pt", None, "", False)
        False
    """
    if said is not None:
        if asked is not None and asked != said:
            ending = ", or a name that ends in -quickgelu," if asked else ""
            raise InputError(
                f"{what}: {_NAMES[said]}, {why}; quick_gelu={asked}{ending} contradicts that"
            )
        logger.info("%s: %s, %s", what, _NAMES[said], why)
        return said
    if asked is not None:
        logger.info("%s: %s, as asked for", what, _NAMES[asked])
        return asked
    logger.warning(
        "%s does not say its activation: QuickGELU, as OpenAI's models have it. For weights that"
        " open_clip trained with GELU pass quick_gelu=False (on the command line --no-quick-gelu)",
        what,
    )
    return True
