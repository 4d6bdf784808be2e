"""Class activations over dense embeddings, and masked average pooling (Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpl_plugin.checks import (
    check_choice,
    check_embeddings_and_prototypes,
    check_labels,
    check_maps,
    check_same_device,
    describe,
)
from vpl_plugin.core.constraints import compute_dtype
from vpl_plugin.errors import InputError

__all__ = ["ACTIVATIONS", "class_activation", "masked_average_pooling", "present_activation"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda raw: raw.softmax(dim=1),
    "none": lambda raw: raw,
}
"""What turns raw activations (B, N, H, W) into masks, by name."""

# Masks of less absolute mass are empty: 1 / mass would take float32 gradients to infinity.
EMPTY_MASS = 1e-12


def class_activation(embeddings: Tensor, prototypes: Tensor, activation: str = "relu") -> Tensor:
    r"""The masks A of Eq. 12 of the VPL paper: how strongly each position answers each class.

    .. math:: A_{i,n,h,w} = \mathrm{act}(w_n^\top V_{i,:,h,w})

    The paper takes raw products as pooling weights. They can be negative, and then Eq. 12 is no
    average: a position that points away from w_n is weighted negatively and so counts *for* the
    class, and the cosine of Eq. 13 flips its sign where the sum of the weights crosses zero.
    Hence the default "relu", GradCAM's own choice: it is the literal form wherever that is an
    average (no negative product), gives no weight to positions that point away, and, like the
    literal form, leaves the pooled vector independent of the scale of the prototypes.
    Its price: a class that no position answers has an empty mask, hence no gradient from it. The
    others never are empty, yet near uniform unless the embeddings are large.

    Args:
        embeddings: (B, D, H, W) dense embeddings V of the decoder, of any scale.
        prototypes: (N, D), W, one row per class.
        activation: "relu"; "sigmoid"; "softmax" over the classes; "none" for the paper's raw A.

    Returns:
        (B, N, H, W), not negative except for "none"; float32, or float64 where either input is,
        under autocast too.

    Raises:
        TypeError: embeddings or prototypes are not floating-point tensors.
        InputError: a wrong rank, D mismatch, different devices or an unknown activation.

    Example:
        >>> embeddings = torch.tensor([[2.0, -1.0], [0.5, 3.0]]).reshape(1, 2, 1, 2)
        >>> class_activation(embeddings, torch.eye(2))[0, :, 0]
        tensor([[2.0000, 0.0000],
                [0.5000, 3.0000]])
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_choice("activation", activation, ACTIVATIONS)
    return activate(embeddings, prototypes, activation)


def activate(embeddings: Tensor, prototypes: Tensor, activation: str) -> Tensor:
    """:func:`class_activation` of arguments that are known to fit."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return ACTIVATIONS[activation](_products(embeddings, prototypes))


def present_activation(embeddings: Tensor, prototypes: Tensor, present: Tensor) -> Tensor:
    r"""Masks A of Eq. 12 of the VPL paper for which only the classes of the image compete.

    .. math:: A_{i,n,h,w} = \frac{\exp(w_n^\top V_{i,:,h,w})}
        {\sum_{m \in Y_i \cup \{n\}} \exp(w_m^\top V_{i,:,h,w})}

    with :math:`Y_i` the rows marked for image i: its classes, and the background's rows. Theirs
    are the softmax over them; a class that the image lacks has what it would take from them. So
    a class's mask leaves out the positions that another class or the background explains better,
    which "relu" pools as well, and classes that no image shows take nothing from those present.

    Args:
        embeddings: (B, D, H, W), V, at the scale at which the softmax of W^T V is meant.
        prototypes: (N, D), W.
        present: (B, N) multi-hot, Y; any value but 0 marks a row.

    Returns:
        (B, N, H, W) in [0, 1]; float32, or float64 where embeddings or prototypes are, under
        autocast too.

    Raises:
        TypeError: an input is not a tensor of the right kind.
        InputError: a wrong rank or shape, D or N mismatch, or different devices.

    Example:
        >>> embeddings = torch.tensor([0.0, 0.0]).reshape(1, 2, 1, 1)
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> present_activation(embeddings, rows, torch.tensor([[1, 0, 1]])).flatten()
        tensor([0.5000, 0.3333, 0.5000])
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_labels(present, len(embeddings), len(prototypes), embeddings)
    return activate_present(embeddings, prototypes, present != 0)


def activate_present(embeddings: Tensor, prototypes: Tensor, present: Tensor) -> Tensor:
    """:func:`present_activation` of arguments that are known to fit."""
    with torch.autocast(embeddings.device.type, enabled=False):
        raw = _products(embeddings, prototypes)
        absent = ~present[:, :, None, None]
        # Half the least number, as -inf would give NaN in an image without any row.
        nothing = torch.finfo(raw.dtype).min / 2
        rivals = raw.masked_fill(absent, nothing).logsumexp(dim=1, keepdim=True)
        # sigmoid(a - log r) = e^a / (e^a + r). Where a is among the rivals its own share is 1 at
        # most; beyond, the other branch of `where` must not overflow.
        apart = raw - rivals
        return torch.where(absent, apart.sigmoid(), apart.clamp_max(0).exp())


def _products(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """W^T V, (B, N, H, W), without autocast."""
    dtype = compute_dtype(embeddings, prototypes)
    # bmm reads the embeddings where they lie; einsum and matmul would copy them first.
    rows = prototypes.to(dtype).expand(len(embeddings), -1, -1)
    raw = torch.bmm(rows, embeddings.to(dtype).flatten(2))
    return raw.unflatten(2, embeddings.shape[2:])


def masked_average_pooling(embeddings: Tensor, masks: Tensor) -> Tensor:
    r"""One embedding per image and class: the average under its mask (Eq. 12 of the VPL paper).

    .. math:: P_{i,n} = \frac{\sum_{h,w} A_{i,n,h,w} V_{i,:,h,w}}{\sum_{h,w} A_{i,n,h,w}}

    Where a mask is empty, its sum less than 1e-12 from zero, the embedding is the zero vector
    and no gradient flows.

    Args:
        embeddings: (B, D, H, W), V.
        masks: (B, N, H, W), A, weights of any scale; bool and integer masks will do.

    Returns:
        (B, N, D), float32, or float64 where either input is, under autocast too.

    Raises:
        TypeError: embeddings are not a floating-point tensor, or masks not a real one.
        InputError: shapes do not fit or devices differ.

    Example:
        >>> embeddings = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).reshape(1, 2, 1, 2)
        >>> masks = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
        >>> masked_average_pooling(embeddings, masks)
        tensor([[[2., 2.],
                 [0., 0.]]])
    """
    check_maps("embeddings", embeddings, "D")
    _check_masks(masks, embeddings)
    return pool(embeddings, masks)


def pool(embeddings: Tensor, masks: Tensor) -> Tensor:
    """:func:`masked_average_pooling` of arguments that are known to fit."""
    dtype = compute_dtype(embeddings, masks)
    with torch.autocast(embeddings.device.type, enabled=False):
        values, weights = embeddings.to(dtype).flatten(2), masks.to(dtype).flatten(2)
        mass = weights.sum(dim=2)[:, :, None]
        empty = mass.abs() < EMPTY_MASS
        # The division is by 1 where the mask is empty: a NaN that `where` discards would still
        # reach the gradient.
        pooled = torch.bmm(weights, values.mT) / mass.masked_fill(empty, 1)
        return pooled.masked_fill(empty, 0)


def _check_masks(masks: object, embeddings: Tensor) -> None:
    """Real masks (B, N, H, W) over the positions of the embeddings."""
    if not isinstance(masks, Tensor) or masks.is_complex():
        raise TypeError(f"masks must be a real torch.Tensor (B, N, H, W); got {describe(masks)}")
    batch, _, height, width = embeddings.shape
    if masks.ndim != 4 or (masks.shape[0], *masks.shape[2:]) != (batch, height, width):
        raise InputError(
            f"masks must have shape ({batch}, N, {height}, {width}) to fit the embeddings;"
            f" got {describe(masks)}"
        )
    check_same_device("masks", masks, "embeddings", embeddings)
