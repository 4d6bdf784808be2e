"""Text prototypes from class names, as CLIP's zero-shot classifiers are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.clip.model import ClipModel

__all__ = ["CLIP_ES", "ENSEMBLE", "SINGLE", "text_prototypes"]

SINGLE = ("a photo of a {}.",)
"""CLIP's own template, the single prompt of the paper's Table 4."""

CLIP_ES = ("a clean origami {}.",)
"""The template of CLIP-ES."""

ENSEMBLE = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a clean origami {}.",
    "a drawing of the {}.",
    "a {} in a scene.",
)
"""Five of CLIP's ImageNet templates, for the ensemble prompts of the paper's Table 4."""


def text_prototypes(
    model: ClipModel,
    names: Sequence[str | Sequence[str]],
    templates: Sequence[str] = CLIP_ES,
) -> Tensor:
    """One text prototype a class: the mean of the unit embeddings of its texts, renormalised.

    Args:
        model: encodes the texts.
        names: N classes, each a string or several synonyms. Synonyms given as a sequence count
            as texts of their own, like templates; CLIP-ES instead writes them into one string
            ("person with clothes,people,human").
        templates: texts with ``{}`` where the name goes; :data:`SINGLE`, :data:`CLIP_ES` or
            :data:`ENSEMBLE`.

    Returns:
        (N, D) float32, unit rows, on the model's device.

    Raises:
        TypeError: ``names`` or ``templates`` is one string.
        ValueError: there are no names or templates, a name is blank, a class has no synonym, or
            a template has no ``{}``.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> text_prototypes(load_clip("mini", device="cpu"), ["cat", ("sofa", "couch")]).shape
        torch.Size([2, 256])
    """
    synonyms = _check_names(names)
    _check_templates(templates)
    texts = [
        template.replace("{}", synonym)
        for of_class in synonyms
        for synonym in of_class
        for template in templates
    ]
    rows = model.encode_text(texts)
    classes = rows.split([len(of_class) * len(templates) for of_class in synonyms])
    return F.normalize(torch.stack([of_class.mean(dim=0) for of_class in classes]), dim=-1)


def _check_names(names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    if isinstance(names, str):
        raise TypeError(f"names must be a sequence of class names, got the one string {names!r}")
    if len(names) == 0:
        raise ValueError("names must hold at least one class")
    synonyms = [(name,) if isinstance(name, str) else tuple(name) for name in names]
    for index, of_class in enumerate(synonyms):
        if not of_class:
            raise ValueError(f"names[{index}] has no synonym")
        for synonym in of_class:
            if not isinstance(synonym, str) or not synonym.strip():
                raise ValueError(f"names[{index}] must be text that is not blank, got {synonym!r}")
    return synonyms


def _check_templates(templates: Sequence[str]) -> None:
    if isinstance(templates, str):
        raise TypeError(
            f"templates must be a sequence of texts, got the one string {templates!r}; a tuple "
            f"({templates!r},) holds one template"
        )
    if len(templates) == 0:
        raise ValueError("templates must hold at least one text")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} where the class name goes")
