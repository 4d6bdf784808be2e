"""GradCAM of CLIP's last block for all classes of a batch of photos at once (Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vpl_plugin.checks import check_same_device
from vpl_plugin.errors import InputError
from vpl_plugin.localization.classes import pad_classes
from vpl_plugin.localization.normalization import min_max
from vpl_plugin.prototypes import Prototypes, check_prototypes

if TYPE_CHECKING:
    from vpl_plugin.clip.model import ClipModel, VisionTokens

__all__ = ["GradCAMOutput", "grad_cam"]


class GradCAMOutput(NamedTuple):
    """What one forward and one backward of the last block give.

    Attributes:
        cams: (B, K, h, w) maps in [0, 1], each min-max normalised; zeros for padding.
        probabilities: (B, K) of the classes present, the rest of 1 being the background's.
        features: (B, h * w, D) dense features, unit rows.
        attention: (B, h * w, h * w) patch attention of the last block, mean over its heads.
    """

    cams: Tensor
    probabilities: Tensor
    features: Tensor
    attention: Tensor


def grad_cam(
    model: ClipModel,
    tokens: VisionTokens,
    prototypes: Prototypes,
    classes: Tensor | Sequence[Sequence[int]],
) -> GradCAMOutput:
    r"""GradCAM of every class present in every photo (Eq. 1 of the VPL paper), as in CLIP-ES.

    The image embedding e is the mean of the projected patch tokens, without the class token. A
    photo's distribution runs over the prototypes of its own classes and of the whole background,

    .. math:: p_k = \mathrm{softmax}_k(\cos(e, w_k) / \tau),

    and the map of class k is :math:`\mathrm{ReLU}(\sum_c g_{kc} A_{cp})`, min-max normalised, with
    A the patch activations after the first layer norm of the last block and
    :math:`g_{kc}` the mean over patches of :math:`\partial p_k / \partial A_{cp}`. The residual
    around that layer norm is a constant to the gradient.

    All maps come from one forward of the last block and one backward batched over the classes, in
    the closed form of :mod:`vpl_plugin.clip.pooled_block`, on the model's device and without
    waiting for it. Memory grows with B * K: choose the photos a batch accordingly.

    Args:
        model: the CLIP model.
        tokens: what ``model.tokens_before_last_block`` returned for B photos.
        prototypes: text or vision prototypes; rows need no unit norm. Their temperature is the
            softmax's, CLIP's own (``1 / model.logit_scale``) where it is None.
        classes: the foreground classes present in each photo: a list of indices a photo, or (B, K)
            integers on the CPU padded with -1.

    Returns:
        cams, probabilities, features and attention; float32, or float64 of a float64 model.

    Raises:
        TypeError: ``classes`` or ``prototypes`` of the wrong kind.
        InputError: a photo without a class, a class that does not exist, prototypes of another
            width or device, or no background row.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> pixels = torch.zeros(2, 3, 32, 48)
        >>> prototypes = Prototypes(torch.eye(5, model.embed_dim), ("cat", "dog", "cow"))
        >>> tokens = model.tokens_before_last_block(pixels)
        >>> output = grad_cam(model, tokens, prototypes, [[2], [0, 1]])
        >>> output.cams.shape, output.probabilities.shape
        (torch.Size([2, 2, 2, 3]), torch.Size([2, 2]))
    """
    check_prototypes(prototypes, model.embed_dim)
    rows, num_foreground = prototypes.rows, prototypes.num_foreground
    check_same_device("prototypes", rows, "tokens", tokens.tokens)
    temperature = prototypes.temperature or 1.0 / model.logit_scale
    padded = pad_classes(classes, num_foreground)
    if padded.shape[0] != tokens.tokens.shape[0]:
        raise InputError(
            f"classes must list the classes of each of the {tokens.tokens.shape[0]} photos of"
            f" tokens; got {padded.shape[0]} photo(s)"
        )

    padded = padded.to(tokens.tokens.device, non_blocking=True)
    batch, num_classes = padded.shape
    block = model.pooled_block(tokens.tokens)
    dtype = torch.promote_types(block.projected.dtype, torch.float32)
    projected = block.projected.to(dtype)
    unit_prototypes = F.normalize(rows.detach().to(dtype), dim=1)
    # A caller in inference mode or under no_grad still gets gradients.
    with torch.inference_mode(False), torch.enable_grad():
        mean = projected.mean(dim=1).clone().requires_grad_()
        logits = F.normalize(mean, dim=1) @ unit_prototypes.clone().T / temperature
        present = logits.gather(1, padded.clamp(min=0)).masked_fill(padded < 0, -torch.inf)
        shown = torch.cat([present, logits[:, num_foreground:]], dim=1)
        probabilities = shown.softmax(dim=1)[:, :num_classes]
        # Photos do not mix, so one seed vector serves the k-th class of every photo.
        seeds = torch.eye(num_classes, dtype=dtype, device=probabilities.device)
        (cotangents,) = torch.autograd.grad(
            probabilities, mean, seeds[:, None].expand(-1, batch, -1), is_grads_batched=True
        )
    with torch.no_grad():
        weights = block.mean_gradients(cotangents.transpose(0, 1))
        maps = weights @ block.activations[:, 1:].to(dtype).mT
        maps = maps.clamp(min=0).unflatten(2, tokens.grid)
        # Twice, as CLIP-ES and grad-cam do: where the softmax saturates the gradient falls below
        # the epsilon of the first pass, and the second stretches the map to 1 all the same.
        return GradCAMOutput(
            cams=min_max(min_max(maps)),
            probabilities=probabilities.detach(),
            features=F.normalize(projected, dim=2),
            attention=block.attention.to(dtype),
        )
