"""The decoder of phase 2: tokens of frozen blocks to embeddings in the prototypes' space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.checks import check_count, check_matrix, check_positive, check_rows, describe
from vpl_plugin.clip import ClipModel
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes

__all__ = ["Decoder", "DecoderOutput", "class_maps"]


class DecoderOutput(NamedTuple):
    """What the decoder makes of a batch of photos.

    Attributes:
        embeddings: (B, D, h', w') float32, V of Eq. 12, of any length.
        logits: (B, 1 + F, h', w') float32 maps before softmax; channel 0 is the background.
    """

    embeddings: Tensor
    logits: Tensor


def class_maps(embeddings: Tensor, prototypes: Tensor, num_foreground: int) -> Tensor:
    r"""The maps A = W^T V (Eq. 12 of the VPL paper), the background prototypes' taken as one.

    .. math:: A_0 = \log \sum_{n > F} \exp(w_n^\top V), \quad A_n = w_n^\top V

    The logsumexp makes the softmax over the 1 + F maps that over all N prototypes, with the
    background's probabilities added up: a pixel is background if any background prototype claims
    it. Without background prototypes A_0 is 0, which leaves it to the length of V whether a class
    is there.

    Args:
        embeddings: (B, D, H, W), V, of any length.
        prototypes: (N, D), W, the foreground's rows first.
        num_foreground: F, from 1 to N.

    Returns:
        (B, 1 + F, H, W), channel 0 the background; float32 at least, under autocast too.

    Example:
        >>> embeddings = torch.tensor([4.0, 1.0]).reshape(1, 2, 1, 1)
        >>> class_maps(embeddings, torch.eye(2), num_foreground=1).flatten()
        tensor([1., 4.])
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = prototypes.to(dtype).expand(len(embeddings), -1, -1)
        raw = torch.bmm(rows, embeddings.to(dtype).flatten(2)).unflatten(2, embeddings.shape[2:])
        foreground, background = raw[:, :num_foreground], raw[:, num_foreground:]
        if background.shape[1] == 0:
            together = torch.zeros_like(foreground[:, :1])
        else:
            together = background.logsumexp(dim=1, keepdim=True)
        return torch.cat([together, foreground], dim=1)


class Decoder(nn.Module):
    r"""A small transformer over tokens of several frozen blocks, for any grid of patches.

    Each level goes through a layer norm and a linear layer to ``width``; the levels are
    concatenated and mixed by another; ``layers`` pre-norm transformer layers follow, each after a
    depthwise 3x3 convolution that tells positions apart (Chu et al., "Conditional Positional
    Encodings for Vision Transformers"), so that nothing depends on the grid; a linear layer gives
    each patch ``upsampling`` x ``upsampling`` embeddings. WeCLIP's decoder has the same outline
    (width 256, three layers, fixed grid).

    What comes out is a correction of the encoder's own dense features,

    .. math:: V = \frac{u}{\tau} + f(\text{tokens}), \quad u \text{ the unit projected token}

    with f = 0 at the start: the first maps are those of phase 1's softmax at temperature
    :math:`\tau`, the prototypes fit from the first iteration on, and a few hundred iterations
    are enough to gain on them. u is the last level under the encoder's own layer norm and
    projection where the decoder comes from :meth:`for_model`; else it starts at random.

    Args:
        prototypes: (N, D), W, the foreground's rows first; kept frozen, as unit rows.
        num_foreground: F, from 1 to N.
        token_width: C of the tokens.
        levels: how many blocks' tokens come in.
        width: of the decoder's own layers.
        layers: how many transformer layers.
        heads: of the attention; divides ``width``.
        upsampling: how many embeddings to a patch and axis. 2 and more give each place between
            the patches a part of the head, which then learns from fewer pixels: in short trainings
            1 is better.
        temperature: tau above, the tau_I that the prototypes were learned with.

    Attributes:
        settings: all arguments but the prototypes, as JSON can hold them.
        prototypes: (N, D), unit rows, a buffer.

    Raises:
        TypeError: ``prototypes`` is no floating-point tensor.
        InputError: a setting is out of range, or a prototype is zero or not finite.

    Example:
        >>> decoder = Decoder(torch.eye(4), 3, token_width=8, levels=2, width=8, heads=2)
        >>> output = decoder(torch.randn(1, 2, 6, 8), grid=(2, 3))
        >>> output.embeddings.shape, output.logits.shape
        (torch.Size([1, 4, 2, 3]), torch.Size([1, 4, 2, 3]))
    """

    prototypes: Tensor

    def __init__(
        self,
        prototypes: Tensor,
        num_foreground: int,
        *,
        token_width: int,
        levels: int,
        width: int = 256,
        layers: int = 3,
        heads: int = 8,
        upsampling: int = 1,
        temperature: float = 0.03,
    ) -> None:
        super().__init__()
        rows = check_matrix("prototypes", prototypes)
        check_rows("prototypes", rows)
        self.settings = {
            "num_foreground": num_foreground,
            "token_width": token_width,
            "levels": levels,
            "width": width,
            "layers": layers,
            "heads": heads,
            "upsampling": upsampling,
            "temperature": temperature,
        }
        for name, value in self.settings.items():
            if name == "temperature":
                check_positive(name, value)
            else:
                check_count(name, int(value) if isinstance(value, bool) else value)  # type: ignore[arg-type]
        if num_foreground > len(rows):
            raise InputError(
                f"num_foreground must be at most the number of prototypes, {len(rows)};"
                f" got {num_foreground}"
            )
        if width % heads:
            raise InputError(f"width must be a multiple of heads; got {width} and {heads}")
        self.num_foreground = num_foreground
        self.upsampling = upsampling
        self.temperature = temperature
        self.register_buffer("prototypes", F.normalize(rows.detach().float(), dim=1).clone())
        self.own = nn.Sequential(
            nn.LayerNorm(token_width), nn.Linear(token_width, rows.shape[1], bias=False)
        )
        self.levels = nn.ModuleList(_Level(token_width, width) for _ in range(levels))
        self.fusion = nn.Linear(levels * width, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, rows.shape[1] * upsampling**2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def for_model(
        cls,
        model: ClipModel,
        prototypes: Prototypes,
        blocks: Sequence[int],
        **settings: int | float,
    ) -> Decoder:
        """A decoder that starts from the encoder's own dense features.

        Args:
            model: the frozen encoder, on whose device the decoder is put; its layer norm and
                projection are copied.
            prototypes: learned from this encoder's features.
            blocks: whose tokens will come in, as :meth:`ClipModel.block_tokens` gives them.
            **settings: ``width``, ``layers``, ``heads``, ``upsampling``, ``temperature``; the last
                by default the prototypes' own.

        Raises:
            InputError: D is not the model's; otherwise as for the class.
        """
        rows = prototypes.rows
        if rows.shape[1] != model.embed_dim:
            raise InputError(
                f"prototypes must have the model's D = {model.embed_dim}; got D = {rows.shape[1]}:"
                f" they belong to another encoder than {model.name!r}"
            )
        if prototypes.temperature is not None:
            settings.setdefault("temperature", prototypes.temperature)
        decoder = cls(
            rows,
            prototypes.num_foreground,
            token_width=model.token_width,
            levels=len(blocks),
            **settings,  # type: ignore[arg-type]
        )
        projection = model.patch_projection()
        decoder.own.load_state_dict(projection.state_dict())
        return decoder.to(model.device)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> DecoderOutput:
        """Embeddings and maps of a batch.

        Args:
            tokens: (B, levels, h * w, C), of any floating-point dtype.
            grid: (h, w).

        Returns:
            V and A, ``upsampling`` times as fine as the grid.

        Raises:
            InputError: the tokens are not of this shape.
        """
        self._check(tokens, grid)
        tokens = tokens.to(self.head.weight.dtype)
        x = self.fusion(torch.cat([f(tokens[:, i]) for i, f in enumerate(self.levels)], dim=-1))
        for layer in self.layers:
            x = layer(x, grid)
        correction = _to_map(self.head(self.norm(x)), grid)
        if self.upsampling > 1:
            correction = F.pixel_shuffle(correction, self.upsampling)
        with torch.autocast(tokens.device.type, enabled=False):
            own = _to_map(F.normalize(self.own(tokens[:, -1]), dim=-1) / self.temperature, grid)
            if self.upsampling > 1:
                own = F.interpolate(
                    own, size=correction.shape[2:], mode="bilinear", align_corners=False
                )
            embeddings = own + correction.float()
        maps = class_maps(embeddings, self.prototypes, self.num_foreground)
        return DecoderOutput(embeddings, maps)

    def _check(self, tokens: Tensor, grid: tuple[int, int]) -> None:
        expected = (self.settings["levels"], grid[0] * grid[1], self.settings["token_width"])
        if tokens.ndim != 4 or tuple(tokens.shape[1:]) != expected or len(tokens) == 0:
            raise InputError(
                f"tokens must have shape (B, levels, h * w, C) = (B, {expected[0]}, {expected[1]},"
                f" {expected[2]}) for the grid {tuple(grid)}; got {describe(tokens)}"
            )


def _to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, C) to (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, grid)


class _Level(nn.Sequential):
    """One block's tokens to the decoder's width."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__(nn.LayerNorm(token_width), nn.Linear(token_width, width), nn.GELU())


class _Layer(nn.Module):
    """Positions by a depthwise convolution, then pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h * w, width) to the same."""
        x = x + self.positions(_to_map(x, grid)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.mlp(x)
