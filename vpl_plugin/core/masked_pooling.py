"""Class activations over dense embeddings, and masked average pooling (Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpl_plugin.core.checks import check_choice
from vpl_plugin.core.loss_checks import check_embeddings_and_prototypes, check_maps, check_masks

__all__ = ["ACTIVATIONS", "class_activation", "masked_average_pooling"]

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
        prototypes: (N, D), W, one row a class.
        activation: "relu"; "sigmoid"; "softmax" over the classes; "none" for the paper's raw A.

    Returns:
        (B, N, H, W), not negative except for "none"; float32, or float64 where either input is,
        under autocast too.

    Raises:
        TypeError: embeddings or prototypes are not floating-point tensors.
        ValueError: a wrong rank, D mismatch, different devices or an unknown activation.

    Example:
        >>> embeddings = torch.tensor([[2.0, -1.0], [0.5, 3.0]]).reshape(1, 2, 1, 2)
        >>> class_activation(embeddings, torch.eye(2))[0, :, 0]
        tensor([[2.0000, 0.0000],
                [0.5000, 3.0000]])
    """
    check_embeddings_and_prototypes(embeddings, prototypes)
    check_choice("activation", activation, ACTIVATIONS)
    dtype = _accumulation_dtype(embeddings, prototypes)
    with torch.autocast(embeddings.device.type, enabled=False):
        # bmm reads the embeddings where they lie; einsum and matmul would copy them first.
        rows = prototypes.to(dtype).expand(len(embeddings), -1, -1)
        raw = torch.bmm(rows, embeddings.to(dtype).flatten(2))
        return ACTIVATIONS[activation](raw.unflatten(2, embeddings.shape[2:]))


def masked_average_pooling(embeddings: Tensor, masks: Tensor) -> Tensor:
    r"""One embedding an image and class: the average under its mask (Eq. 12 of the VPL paper).

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
        ValueError: shapes do not fit or devices differ.

    Example:
        >>> embeddings = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).reshape(1, 2, 1, 2)
        >>> masks = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
        >>> masked_average_pooling(embeddings, masks)
        tensor([[[2., 2.],
                 [0., 0.]]])
    """
    check_maps("embeddings", embeddings, "D")
    check_masks(masks, embeddings)
    dtype = _accumulation_dtype(embeddings, masks)
    with torch.autocast(embeddings.device.type, enabled=False):
        values, weights = embeddings.to(dtype).flatten(2), masks.to(dtype).flatten(2)
        mass = weights.sum(dim=2)[:, :, None]
        empty = mass.abs() < EMPTY_MASS
        # The division is by 1 where the mask is empty: a NaN that `where` discards would still
        # reach the gradient.
        pooled = torch.bmm(weights, values.mT) / mass.masked_fill(empty, 1)
        return pooled.masked_fill(empty, 0)


def _accumulation_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
