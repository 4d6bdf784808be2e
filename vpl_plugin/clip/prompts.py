"""Text prototypes from class names, as CLIP's zero-shot classifiers are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import check_names, check_templates
from vpl_plugin.clip.class_names import ClassNames
from vpl_plugin.clip.model import ClipModel
from vpl_plugin.clip.templates import CLIP_ES
from vpl_plugin.prototypes import Prototypes

__all__ = ["class_prototypes", "text_prototypes"]


def text_prototypes(
    model: ClipModel,
    names: Sequence[str | Sequence[str]],
    templates: Sequence[str] = CLIP_ES,
) -> Tensor:
    """One text prototype per class: the mean of the unit embeddings of its texts, renormalised.

    Args:
        model: encodes the texts.
        names: N classes, each a string or several synonyms. Synonyms given as a sequence count
            as texts of their own, like templates; CLIP-ES instead writes them into one string
            ("person with clothes,people,human").
        templates: texts with ``{}`` where the name goes; one of
            :mod:`vpl_plugin.clip.templates`.

    Returns:
        (N, D) float32, unit rows, on the model's device.

    Raises:
        TypeError: ``names`` or ``templates`` is one string.
        InputError: there are no names or templates, a name is blank, a class has no synonym, or
            a template has no ``{}``.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> text_prototypes(load_clip("mini", device="cpu"), ["cat", ("sofa", "couch")]).shape
        torch.Size([2, 256])
    """
    synonyms = check_names("names", names)
    check_templates(templates)
    texts = [
        template.replace("{}", synonym)
        for of_class in synonyms
        for synonym in of_class
        for template in templates
    ]
    rows = model.encode_text(texts)
    classes = rows.split([len(of_class) * len(templates) for of_class in synonyms])
    return F.normalize(torch.stack([of_class.mean(dim=0) for of_class in classes]), dim=-1)


def class_prototypes(model: ClipModel, names: ClassNames) -> Prototypes:
    """Text prototypes of a data set's classes and of its background names, with its templates.

    Args:
        model: encodes the texts.
        names: N classes and M background names.

    Returns:
        (N + M, D) float32, unit rows, on the model's device, with the texts they were made of.

    Example:
        >>> from vpl_plugin.clip import VOC, load_clip
        >>> text = class_prototypes(load_clip("mini", device="cpu"), VOC)
        >>> text.rows.shape, text.num_foreground
        (torch.Size([45, 256]), 20)
    """
    rows = text_prototypes(model, [*names.prompts, *names.background], names.templates)
    about = {"kind": "text", "model": model.name, **names.texts()}
    return Prototypes(rows, names.labels, about=about)
