"""Calls that mypy has to report: it fails on an ignore that ignores nothing."""

from __future__ import annotations

from torch import Tensor

from vpl_plugin import PrototypeFit, fit_vision_prototypes, learn_vision_prototypes


def misspelt_option(features: Tensor, text_protos: Tensor) -> None:
    learn_vision_prototypes(features, text_protos, sovler="pgd")  # type: ignore[call-arg]
    fit_vision_prototypes(features, text_protos, sovler="pgd")  # type: ignore[call-arg]


def option_of_another_type(features: Tensor, text_protos: Tensor) -> None:
    learn_vision_prototypes(features, text_protos, lr="10")  # type: ignore[arg-type]
    fit_vision_prototypes(features, text_protos, targets=[0, 1])  # type: ignore[arg-type]


def result_of_another_type(features: Tensor, text_protos: Tensor) -> PrototypeFit:
    return learn_vision_prototypes(features, text_protos)  # type: ignore[return-value]
