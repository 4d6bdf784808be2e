"""Regional semantic contrast: regions of a batch against the prototypes (Eq. 13)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.core.checks import check_choice, check_positive
from vpl_plugin.core.loss_checks import check_embeddings_and_prototypes, check_labels
from vpl_plugin.core.masked_pooling import ACTIVATIONS, class_activation, masked_average_pooling

__all__ = ["RSCLoss", "region_similarity", "rsc_loss"]


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
        ValueError: a wrong rank, D mismatch, different devices or an unknown activation.

    Example:
        >>> embeddings = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
        >>> region_similarity(embeddings, torch.eye(2))
        tensor([[0.6000, 0.8000]])
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    # Converted once, so that both products keep one copy for the backward pass.
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    masks = class_activation(embeddings, prototypes, activation)
    regions = masked_average_pooling(embeddings, masks)
    with torch.autocast(embeddings.device.type, enabled=False):
        anchors = F.normalize(prototypes.to(regions.dtype), dim=1)
        return (F.normalize(regions, dim=2) * anchors).sum(dim=2)


def rsc_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.07,
    activation: str = "relu",
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

    Returns:
        0-d, in nats, not negative; float32, or float64 where embeddings or prototypes are.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        ValueError: a wrong rank or shape, D or N mismatch, different devices, tau <= 0 or an
            unknown activation.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 2, 1, 1)
        >>> labels = torch.tensor([[1, 0], [0, 1]])
        >>> rsc_loss(embeddings, torch.eye(2), labels, tau=1.0)
        tensor(0.4489)
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_labels(labels, len(embeddings), len(prototypes), embeddings)
    check_positive("tau", tau)
    check_choice("activation", activation, ACTIVATIONS)
    similarity = region_similarity(embeddings, prototypes, activation)
    with torch.autocast(embeddings.device.type, enabled=False):
        return _contrast(similarity / tau, labels != 0)


def _contrast(logits: Tensor, present: Tensor) -> Tensor:
    """The closed form over logits S / tau (B, N) and the classes present (B, N)."""
    images_with = present.sum(dim=0, keepdim=True)
    classes_in = present.sum(dim=1, keepdim=True)
    # log(sum_f exp S) over negatives f, of image i (B, 1) and of class n (1, N).
    row_negatives = _weighted_logsumexp(logits, images_with, ~present, dim=1)
    column_negatives = _weighted_logsumexp(logits, classes_in, ~present, dim=0)
    # -log(e^s / (e^s + e^m)) = log(1 + e^(m - s)), for the row and the column of each entry.
    zero = torch.zeros_like(logits)
    terms = torch.logaddexp(zero, row_negatives - logits) + torch.logaddexp(
        zero, column_negatives - logits
    )
    return terms.masked_fill(~present, 0).sum() / (2 * present.sum().clamp_min(1))


def _weighted_logsumexp(logits: Tensor, counts: Tensor, kept: Tensor, dim: int) -> Tensor:
    log_counts = counts.clamp_min(1).to(logits.dtype).log()
    # Half the least finite number instead of -inf: where nothing is kept, exp underflows to an
    # exact 0 with zero gradient, and no backward pass has to take -inf from -inf.
    nothing = torch.finfo(logits.dtype).min / 2
    weighted = (logits + log_counts).masked_fill(~kept | (counts == 0), nothing)
    return weighted.logsumexp(dim=dim, keepdim=True)


class RSCLoss(nn.Module):
    """The regional semantic contrast loss as a module; see :func:`rsc_loss`.

    Args:
        tau: temperature, above 0.
        activation: "relu", "sigmoid", "softmax" or "none".

    Example:
        >>> loss = RSCLoss(tau=1.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(2, 2, 1, 1)
        >>> loss(embeddings, torch.eye(2), torch.eye(2, dtype=torch.bool))
        tensor(0.4489)
    """

    def __init__(self, tau: float = 0.07, activation: str = "relu") -> None:
        super().__init__()
        check_positive("tau", tau)
        check_choice("activation", activation, ACTIVATIONS)
        self.tau = tau
        self.activation = activation

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, 0-d."""
        return rsc_loss(embeddings, prototypes, labels, tau=self.tau, activation=self.activation)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"tau={self.tau}, activation={self.activation!r}"
