r"""The last block with its pooled gradient in closed form.

GradCAM needs of the gradient at the block's ``ln_1`` output only its mean over the patches. That
mean is the gradient in a shift shared by all patches, and costs far less than the gradient itself.
With A the attention of a head, q, k, v its queries, keys and values, s = d^(-1/2), o = A v, dots
for cotangents, and token 0 the class token:

1. *From the embedding to the MLP.* The patches are pooled by their mean, so every patch p gets the
   same cotangent u after ``ln_post``, whose Jacobian makes of it

   .. math:: \dot y_p = (u - \bar u + \delta_p \hat y_p) / \sigma_p,
             \qquad \delta_p = -\langle u - \bar u, \hat y_p \rangle / C.

   Through ``c_proj`` (W2) that needs :math:`W_2^\top u` once a class and
   :math:`W_2^\top \hat y_p` once a photo, whatever the number of classes.
2. *Through* ``c_fc``, ``ln_2`` *and* ``out_proj``. Per patch and class, as usual: :math:`\dot o_q`.
3. *Through the attention.* The sums over patches come without :math:`\dot A`, as the rows of
   :math:`\dot S_{qp} = A_{qp} \langle \dot o_q, v_p - o_q \rangle` sum to zero:

   .. math::

       \sum_{p > 0} \dot v_p &= \sum_q (1 - A_{q0}) \dot o_q \\
       \sum_{p > 0} \dot k_p &= -s \sum_q \dot S_{q0} q_q \\
       \sum_{q > 0} \dot q_q &= s \sum_p c_p k_p, \qquad
           c_p = \langle (A^\top \dot o)_p, v_p \rangle
               - \sum_q A_{qp} \langle \dot o_q, o_q \rangle

The output of the class token reaches no patch embedding, and is never computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpl_plugin.clip.attention import heads, join_heads

__all__ = ["PooledBlock"]


class PooledBlock:
    """What the last block gives GradCAM: values at once, pooled gradients on demand.

    Get one from :meth:`vpl_plugin.clip.ClipModel.pooled_block`. Nothing here is differentiable.

    Args:
        block: the last block, with ``attn``, ``ln_2``, ``mlp.c_fc``, an elementwise ``mlp.gelu``,
            ``mlp.c_proj`` and, if it likes, the layer scales ``ls_1`` and ``ls_2``.
        ln_post: the layer norm after it.
        proj: (C, D), the projection after that.
        tokens: (B, 1 + P, C), entering the block.
        activations: (B, 1 + P, C), its ``ln_1`` output.

    Attributes:
        activations: as given.
        projected: (B, P, D), patch embeddings, not normalised.
        attention: (B, P, P), head-averaged patch-to-patch attention.
    """

    @torch.no_grad()
    def __init__(
        self, block: Any, ln_post: nn.LayerNorm, proj: Tensor, tokens: Tensor, activations: Tensor
    ) -> None:
        self._block, self._ln_post, self._proj = block, ln_post, proj
        self.activations = activations
        self._query, self._key, self._value = heads(block.attn, activations)
        self._query = self._query[:, :, 1:] * self._query.shape[-1] ** -0.5
        self._maps = (self._query @ self._key.mT).softmax(dim=-1)
        self._mixed = self._maps @ self._value
        self.attention = self._maps.mean(dim=1)[..., 1:]

        self._scales = [_layer_scale(block, name, tokens) for name in ("ls_1", "ls_2")]
        x = tokens[:, 1:] + self._scales[0] * join_heads(block.attn, self._mixed)
        self._middle = _unit(block.ln_2, x)
        hidden = block.mlp.c_fc(_run_norm(block.ln_2, x))
        active, self._slope = _value_and_slope(block.mlp.gelu, hidden)
        y = x + self._scales[1] * block.mlp.c_proj(active)
        self._last = _unit(ln_post, y)
        self.projected = _run_norm(ln_post, y) @ proj

    @torch.no_grad()
    def mean_gradients(self, cotangents: Tensor) -> Tensor:
        """Gradients of linear functions of the image embedding, averaged over the patches.

        Args:
            cotangents: (B, K, D): K directions a photo. The function is the direction's product
                with the mean of ``projected`` over the patches.

        Returns:
            (B, K, C), in the dtype of ``cotangents``: the mean over the patches of its gradient in
            ``activations``, ``tokens`` being constant.
        """
        block, dtype = self._block, self._proj.dtype
        patches = self.projected.shape[1]
        u = cotangents @ self._proj.to(cotangents.dtype).T
        u = _affine_weight(self._ln_post, u) * u
        u = u - u.mean(dim=-1, keepdim=True)
        # Linear in u: at unit length half precision neither overflows nor underflows.
        length = u.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
        u = u / length

        unit, inverse_deviation = self._last
        width = unit.shape[-1]
        delta = -(u @ unit.mT)[..., None] / width
        shared = (u * self._scales[1]).to(dtype) @ block.mlp.c_proj.weight
        own = (unit * self._scales[1]).to(dtype) @ block.mlp.c_proj.weight
        slope = (self._slope * inverse_deviation).to(dtype)
        masked = slope[:, None] * shared[:, :, None]
        masked = masked.addcmul_((slope * own)[:, None], delta.to(dtype))
        middle = (masked @ block.mlp.c_fc.weight).to(u.dtype)
        middle = _norm_backward(self._middle, middle * _affine_weight(block.ln_2, middle))
        middle += (u[:, :, None] + delta * unit[:, None]) * inverse_deviation[:, None]

        mixed = (middle * self._scales[0]).to(dtype) @ block.attn.out_proj.weight
        # (B, heads, P, K, d) from here on.
        mixed = mixed.unflatten(-1, (block.attn.num_heads, -1)).permute(0, 3, 2, 1, 4)
        along = torch.einsum("bhpkd,bhpd->bhpk", mixed, self._mixed)
        columns = torch.cat([mixed, along[..., None]], dim=-1)
        spread = (self._maps.mT @ columns.flatten(3)).unflatten(-1, columns.shape[3:])
        mass = torch.einsum("bhpkd,bhpd->bhpk", spread[..., :-1], self._value) - spread[..., -1]
        to_class = self._maps[..., 0]
        leaving = torch.einsum("bhpkd,bhd->bhpk", mixed, self._value[:, :, 0]) - along
        # The queries are scaled already, the keys are not.
        query = mass.mT @ self._key * self._key.shape[-1] ** -0.5
        key = -(leaving * to_class[..., None]).mT @ self._query
        value = torch.einsum("bhp,bhpkd->bhkd", 1 - to_class, mixed)
        summed = torch.cat([part.transpose(1, 2).flatten(2) for part in (query, key, value)], -1)
        gradient = summed @ block.attn.in_proj_weight
        return gradient.to(u.dtype) * (length / patches**2)


def _run_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer(x.to(layer.weight.dtype)).to(x.dtype)


def _unit(layer: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer norm makes before its weight, and 1 / deviation; in its own dtype."""
    x = x.to(layer.weight.dtype)
    unit, _, inverse_deviation = torch.native_layer_norm(x, x.shape[-1:], None, None, layer.eps)
    return unit, inverse_deviation


def _affine_weight(layer: nn.LayerNorm, like: Tensor) -> Tensor:
    return layer.weight.to(like.dtype)


def _norm_backward(norm: tuple[Tensor, Tensor], gradient: Tensor) -> Tensor:
    """The Jacobian of x -> unit, (B, P, C), applied to (B, K, P, C)."""
    unit, inverse_deviation = (part[:, None] for part in norm)
    projection = torch.einsum("bkpc,bpc->bkp", gradient, norm[0])[..., None] / unit.shape[-1]
    centred = gradient - gradient.mean(dim=-1, keepdim=True)
    return centred.addcmul_(unit, projection, value=-1).mul_(inverse_deviation)


def _layer_scale(block: Any, name: str, like: Tensor) -> Tensor:
    """The factors (C,) of a block's layer scale, ones where it has none."""
    ones = like.new_ones(like.shape[-1])
    scale = getattr(block, name, None)
    return ones if scale is None else scale(ones)


def _value_and_slope(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """An elementwise function and its derivative, both of the shape of ``x``."""
    with torch.inference_mode(False), torch.enable_grad():
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = function(x)
        (slope,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return value.detach(), slope
