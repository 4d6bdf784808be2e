"""Regional semantic contrast: regions of a batch against the prototypes (Eq. 13)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.checks import (
    check_choice,
    check_embeddings_and_prototypes,
    check_fraction,
    check_labels,
    check_positive,
    check_same_device,
    describe,
)
from vpl_plugin.core.masked_pooling import ACTIVATIONS, activate, activate_present, pool
from vpl_plugin.errors import InputError

__all__ = ["MASKS", "RSCLoss", "region_similarity", "rsc_loss"]

MASKS = (*ACTIVATIONS, "present")
"""What makes masks of the activations in the loss, by name."""

# Masks of these lie in [0, 1], so that their mass is an area.
_SHARES = ("sigmoid", "softmax", "present")


class Contrast(NamedTuple):
    """The settings of :func:`rsc_loss`, whose docstring says what they mean."""

    tau: float = 0.07
    activation: str = "relu"
    detach_masks: bool = False
    centred: bool = False
    least_area: float = 0.0
    num_background: int = 0

    def check(self) -> None:
        """Refuses what is out of range."""
        check_positive("tau", self.tau)
        check_choice("activation", self.activation, MASKS)
        check_fraction("least_area", self.least_area)
        if self.least_area and self.activation not in _SHARES:
            raise InputError(
                f"least_area needs masks in [0, 1]: activation {', '.join(map(repr, _SHARES))};"
                f" got {self.least_area!r} with {self.activation!r}"
            )
        if not isinstance(self.num_background, int) or self.num_background < 0:
            raise InputError(
                f"num_background must be a whole number, 0 or more; got {self.num_background!r}"
            )

    def shown(self) -> str:
        """Temperature and activation, and of the others those that are not the default."""
        default = Contrast()._asdict()
        own = {k: v for k, v in self._asdict().items() if v != default[k]}
        shown = {"tau": self.tau, "activation": self.activation, **own}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def region_similarity(embeddings: Tensor, prototypes: Tensor, activation: str = "relu") -> Tensor:
    r"""Cosine of each image's region of a class to that class's prototype (above Eq. 13).

    .. math:: S_{i,n} = \cos(P_{i,n}, w_n), \quad P \text{ of Eq. 12 of the VPL paper}

    Args:
        embeddings: (B, D, H, W), V.
        prototypes: (N, D), W; need not be unit.
        activation: what makes masks of the activations, see
            :func:`~vpl_plugin.core.masked_pooling.class_activation`.

    Returns:
        (B, N) in [-1, 1], in [0, 1] for "relu"; 0 where the mask is empty. float32, or float64
        where either input is.

    Raises:
        TypeError: embeddings or prototypes are not floating-point tensors.
        InputError: a wrong rank, D mismatch, different devices or an unknown activation.

    Example:
        >>> embeddings = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
        >>> region_similarity(embeddings, torch.eye(2))
        tensor([[0.6000, 0.8000]])
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_choice("activation", activation, ACTIVATIONS)
    embeddings = _converted(embeddings)
    regions = pool(embeddings, activate(embeddings, prototypes, activation))
    return _cosines(regions, prototypes)


def _converted(embeddings: Tensor) -> Tensor:
    """float32 at least: once, so that both products keep one copy for the backward pass."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def _cosines(regions: Tensor, prototypes: Tensor) -> Tensor:
    """cos(P_{i,n}, w_n), (B, N)."""
    with torch.autocast(regions.device.type, enabled=False):
        anchors = F.normalize(prototypes.to(regions.dtype), dim=1)
        return (F.normalize(regions, dim=2) * anchors).sum(dim=2)


def rsc_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.07,
    activation: str = "relu",
    detach_masks: bool = False,
    centred: bool = False,
    least_area: float = 0.0,
    num_background: int = 0,
    inside: Tensor | None = None,
) -> Tensor:
    r"""The regional semantic contrast loss (Eq. 12-13 of the VPL paper), for multi-label images.

    Eq. 13 has one class an image: S_{i,j} compares the region of image j's class in image i with
    that class's prototype, and each image is told from the others along rows and columns of S.
    Here the entries are all E pairs e = (i_e, n_e) of an image and a class present in it, with
    :math:`S_{e,f} = \cos(P_{i_e,n_f}, w_{n_f})`:

    .. math:: L = -\frac{1}{2E} \sum_e \Big(
        \log \frac{\exp(S_{e,e}/\tau)}{\sum_{f \in R_e} \exp(S_{e,f}/\tau)} +
        \log \frac{\exp(S_{e,e}/\tau)}{\sum_{f \in C_e} \exp(S_{f,e}/\tau)} \Big)

    R_e is e and the entries whose class image i_e lacks; C_e is e and the entries whose image
    lacks class n_e: a class that is there is no negative. With one class an image, all different,
    this is Eq. 13 to the letter.

    Everything is in S (B, N), so the cost does not grow with E squared: the row negatives of
    image i are the classes it lacks, each as often as images have it, and the column negatives of
    class n are the images that lack it, each as often as it has classes. Nothing waits for the
    device, and all shapes are static.

    Negatives come from the batch: alone, an image has none, and its loss is 0. So it is where no
    class is present at all; gradients are then zero, never NaN. All is computed in float32 at
    least, under autocast too.

    Args:
        embeddings: (B, D, H, W), V, the decoder's dense embeddings.
        prototypes: (N, D), W, the classes that labels know; with or without gradient.
        labels: (B, N) multi-hot; any value but 0 marks a class as present.
        tau: temperature, above 0. The paper names none; 0.07 is the custom of InfoNCE.
        activation: what makes masks of the activations, see
            :func:`~vpl_plugin.core.masked_pooling.class_activation`; "none" is the paper's form.
            "present": only the classes of the image and the background compete for a position,
            see :func:`~vpl_plugin.core.masked_pooling.present_activation`.
        detach_masks: no gradient through the masks: the loss moves embeddings, and not how they
            are weighted.
        centred: cosines about the mean, of P less the mean embedding of the batch and of w_n less
            the mean of all rows of W. What all embeddings share then neither raises nor lowers the
            loss.
        least_area: a class whose mask covers a smaller share of the image, in [0, 1], is no entry,
            and no negative either; 0 counts every class. Not for "relu" and "none", whose masks
            are no shares.
        num_background: so many rows at the end of W are the background's, which labels do not
            mark; they compete for positions under "present".
        inside: (B, H, W), any value but 0 where the image is; the rest, padding, is left out of
            masks, areas and the mean. None for everywhere.

    Returns:
        0-d, in nats, not negative; float32, or float64 where embeddings or prototypes are.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        InputError: a wrong rank or shape, D or N mismatch, different devices, or a setting out of
            range.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 2, 1, 1)
        >>> labels = torch.tensor([[1, 0], [0, 1]])
        >>> rsc_loss(embeddings, torch.eye(2), labels, tau=1.0)
        tensor(0.4489)
        >>> rsc_loss(embeddings, torch.eye(2), labels, tau=1.0, activation="present", centred=True)
        tensor(0.1397)
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_labels(labels, len(embeddings), len(prototypes), embeddings)
    settings = Contrast(tau, activation, detach_masks, centred, least_area, num_background)
    settings.check()
    check_inside(inside, embeddings)
    return contrast(embeddings, prototypes, labels, settings, inside)


def contrast(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    settings: Contrast,
    inside: Tensor | None,
) -> Tensor:
    """:func:`rsc_loss` of arguments that are known to fit."""
    present = labels != 0
    embeddings = _converted(embeddings)
    masks = _masks(embeddings, prototypes, present, settings)
    if inside is not None:
        inside = (inside != 0)[:, None]
        masks = masks * inside
    regions = pool(embeddings, masks)
    with torch.autocast(embeddings.device.type, enabled=False):
        if settings.centred:
            regions = _about_the_mean(regions, embeddings.to(regions.dtype), inside)
            prototypes = prototypes - prototypes.mean(dim=0)
        similarity = _cosines(regions, prototypes)
        entries = present
        if settings.least_area:
            entries = present & (_areas(masks, inside) >= settings.least_area)
        return _closed_form(similarity / settings.tau, entries, ~present)


def _masks(embeddings: Tensor, prototypes: Tensor, present: Tensor, settings: Contrast) -> Tensor:
    if settings.activation == "present":
        rows = torch.arange(len(prototypes), device=present.device)
        background = rows >= len(prototypes) - settings.num_background
        masks = activate_present(embeddings, prototypes, present | background)
    else:
        masks = activate(embeddings, prototypes, settings.activation)
    return masks.detach() if settings.detach_masks else masks


def _about_the_mean(regions: Tensor, embeddings: Tensor, inside: Tensor | None) -> Tensor:
    """The regions less the batch's mean embedding; the zero vector where nothing is left."""
    if inside is None:
        mean = embeddings.mean(dim=(0, 2, 3))
    else:
        kept = embeddings.masked_fill(~inside, 0).sum(dim=(0, 2, 3))
        mean = kept / inside.sum().clamp_min(1)
    apart = regions - mean
    # An empty mask's region is zero already; one that is the mean, to rounding, has no direction.
    least = torch.finfo(regions.dtype).eps * 16 * mean.norm()
    nothing = (regions == 0).all(dim=2) | (apart.norm(dim=2) <= least)
    return apart.masked_fill(nothing[:, :, None].detach(), 0)


def _areas(masks: Tensor, inside: Tensor | None) -> Tensor:
    """The share of the image that each mask covers, (B, N)."""
    covered = masks.detach().sum(dim=(2, 3))
    if inside is None:
        return covered / masks[0, 0].numel()
    return covered / inside.sum(dim=(2, 3)).clamp_min(1)


def _closed_form(logits: Tensor, entries: Tensor, lacking: Tensor) -> Tensor:
    """Eq. 13 over logits S / tau (B, N), the entries and the classes that images lack (B, N)."""
    images_with = entries.sum(dim=0, keepdim=True)
    classes_in = entries.sum(dim=1, keepdim=True)
    # log(sum_f exp S) over negatives f, of image i (B, 1) and of class n (1, N).
    row_negatives = _weighted_logsumexp(logits, images_with, lacking, dim=1)
    column_negatives = _weighted_logsumexp(logits, classes_in, lacking, dim=0)
    # -log(e^s / (e^s + e^m)) = log(1 + e^(m - s)), for the row and the column of each entry.
    zero = torch.zeros_like(logits)
    terms = torch.logaddexp(zero, row_negatives - logits) + torch.logaddexp(
        zero, column_negatives - logits
    )
    return terms.masked_fill(~entries, 0).sum() / (2 * entries.sum().clamp_min(1))


def _weighted_logsumexp(logits: Tensor, counts: Tensor, kept: Tensor, dim: int) -> Tensor:
    log_counts = counts.clamp_min(1).to(logits.dtype).log()
    # Half the least finite number instead of -inf: where nothing is kept, exp underflows to an
    # exact 0 with zero gradient, and no backward pass has to take -inf from -inf.
    nothing = torch.finfo(logits.dtype).min / 2
    weighted = (logits + log_counts).masked_fill(~kept | (counts == 0), nothing)
    return weighted.logsumexp(dim=dim, keepdim=True)


def check_inside(inside: object, embeddings: Tensor) -> None:
    """None, or a real tensor over the positions of the embeddings."""
    if inside is None:
        return
    if not isinstance(inside, Tensor) or inside.is_complex():
        raise TypeError(f"inside must be a real torch.Tensor (B, H, W); got {describe(inside)}")
    batch, _, height, width = embeddings.shape
    if inside.shape != (batch, height, width):
        raise InputError(
            f"inside must have shape ({batch}, {height}, {width}) to fit the embeddings;"
            f" got {describe(inside)}"
        )
    check_same_device("inside", inside, "embeddings", embeddings)


class RSCLoss(nn.Module):
    """The regional semantic contrast loss as a module; arguments are those of :func:`rsc_loss`.

    Example:
        >>> loss = RSCLoss(tau=1.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 2, 1, 1)
        >>> loss(embeddings, torch.eye(2), torch.eye(2, dtype=torch.bool))
        tensor(0.4489)
    """

    def __init__(
        self,
        tau: float = 0.07,
        activation: str = "relu",
        *,
        detach_masks: bool = False,
        centred: bool = False,
        least_area: float = 0.0,
        num_background: int = 0,
    ) -> None:
        super().__init__()
        self.settings = Contrast(tau, activation, detach_masks, centred, least_area, num_background)
        self.settings.check()

    def forward(
        self,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: Tensor,
        inside: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, 0-d."""
        return rsc_loss(embeddings, prototypes, labels, inside=inside, **self.settings._asdict())

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return self.settings.shown()
