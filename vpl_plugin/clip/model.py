"""What the rest of the package asks of a CLIP model, whichever one stands behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vpl_plugin.checks import check_blocks
from vpl_plugin.clip.feature_kinds import FEATURE_KINDS
from vpl_plugin.clip.pooled_block import PooledBlock
from vpl_plugin.clip.preprocess import CLIP_MEAN, CLIP_STD, PixelArray, normalise, preprocess
from vpl_plugin.clip.tokenizer import ClipTokenizer
from vpl_plugin.clip.vision_tower import VisionTower
from vpl_plugin.errors import InputError

__all__ = ["ClipModel", "LastBlock", "VisionTokens"]

# CLIP-ES averages the maps of the last eight blocks: the last one and seven before it.
CLIP_ES_ATTENTION_BLOCKS = 7

_TEXTS_AT_ONCE = 256


class VisionTokens(NamedTuple):
    """What is known of a batch of photos before the last block.

    Attributes:
        tokens: (B, 1 + h * w, C), entering the last block, the class token first.
        attention: (B, blocks, h * w, h * w), head-averaged patch-to-patch attention of the
            blocks before the last that were asked for, in their order. Without the class
            token's column a row sums to less than 1.
        grid: (h, w), rows and columns of patches.
    """

    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]


class LastBlock(NamedTuple):
    """What the last block gives from its ``ln_1`` output.

    Attributes:
        output: (B, 1 + h * w, C).
        attention: (B, h * w, h * w), its head-averaged patch-to-patch attention.
    """

    output: Tensor
    attention: Tensor


class ClipModel:
    """A frozen CLIP ViT, cut before its last block so that GradCAM can start there.

    Get one from :func:`vpl_plugin.clip.load_clip`. The vision tower computes in ``dtype`` (its
    layer norms in float32 at least); texts are always encoded in float32.

    Args:
        module: an ``nn.Module`` with ``visual``, ``encode_text`` and ``logit_scale``. It is
            frozen and put in eval mode in place.
        name: what messages and reports call the model.
        tokenizer: maps a list of T texts to token ids (T, context); CLIP's by default.
        dtype: what the vision tower computes in; ``module`` is converted in place.

    Attributes:
        module: the model itself.
        name: as given.
        tokenizer: as given, or CLIP's.
        patch_size: side of a patch in pixels.
        embed_dim: D.
        token_width: C, the width of the tokens between blocks.
        depth: how many blocks there are.
        logit_scale: the factor on cosines that the model was trained with, 100 for most.

    Raises:
        UnsupportedModelError: the vision tower is no plain vision transformer.
        InputError: ``tokenizer`` is missing and the model does not use CLIP's vocabulary.

    Example:
        >>> from vpl_plugin.clip import load_clip
        >>> load_clip("mini", device="cpu")
        ClipModel('mini', patch_size=16, embed_dim=256, device=cpu, dtype=torch.float32)
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        parts: Any = module
        self._tower = VisionTower(parts.visual)
        self.tokenizer = ClipTokenizer.of(module) if tokenizer is None else tokenizer
        self.module = module.requires_grad_(False).eval()
        self.name = name
        self.patch_size = self._tower.patch_size
        self.embed_dim = self._tower.embed_dim
        self.token_width = self._tower.token_width
        self.depth = len(self._tower.blocks)
        self.logit_scale = float(parts.logit_scale.float().exp())
        self._mean, self._std = _normalisation(parts.visual)
        for part in module.children():
            part.to(dtype if part is parts.visual else torch.float32)
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()
        for layer in parts.visual.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.to(torch.promote_types(dtype, torch.float32))

    def __repr__(self) -> str:
        return (
            f"ClipModel({self.name!r}, patch_size={self.patch_size}, embed_dim={self.embed_dim}, "
            f"device={self.device}, dtype={self.dtype})"
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._tower.device

    @property
    def dtype(self) -> torch.dtype:
        """What the vision tower computes in."""
        return self._tower.dtype

    def fingerprint(self) -> dict[str, str]:
        """What of the encoder its features depend on.

        Returns:
            "name", "dtype" (what it computes in), "weights" (a digest of its vision tower's) and
            "activation" (its vision tower's).
        """
        digest = hashlib.sha256()
        visual: Any = self.module.visual
        for name, value in sorted(visual.state_dict().items()):
            digest.update(name.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        # The same weights run with either, and only one of them is right.
        kinds = {type(layer).__name__ for layer in visual.modules()} & {"GELU", "QuickGELU"}
        return {
            "name": self.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights": digest.hexdigest()[:16],
            "activation": " and ".join(sorted(kinds)),
        }

    def to(self, device: torch.device | str) -> ClipModel:
        """Move the model, in place as ``nn.Module.to`` does, and return it."""
        self.module.to(device)
        return self

    def preprocess(self, photo: Image.Image | PixelArray) -> Tensor:
        """A photo as (3, H, W) pixels on the model's device, normalised as it was trained.

        See :func:`vpl_plugin.clip.preprocess`.
        """
        return preprocess(
            photo, self.patch_size, device=self.device, mean=self._mean, std=self._std
        )

    def normalise(self, photos: Tensor) -> Tensor:
        """Photos (B, H, W, 3) uint8 as (B, 3, H, W) pixels on the model's device.

        The last step of :meth:`preprocess`, for photos whose sides are whole patches already.
        """
        return normalise(photos.to(self.device, non_blocking=True), self._mean, self._std)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts.

        Args:
            texts: T of them. What exceeds the model's context (77 tokens) is cut off.

        Returns:
            (T, D) float32, unit rows.

        Raises:
            TypeError: ``texts`` is one string, or holds something else than strings.
            InputError: ``texts`` is empty.
        """
        _check_texts(texts)
        encoder: Any = self.module
        rows = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            tokens = self.tokenizer(list(texts[start : start + _TEXTS_AT_ONCE]))
            rows.append(F.normalize(encoder.encode_text(tokens.to(self.device)).float(), dim=-1))
        return torch.cat(rows)

    @torch.no_grad()
    def tokens_before_last_block(
        self,
        pixels: Tensor,
        *,
        attention_blocks: int = CLIP_ES_ATTENTION_BLOCKS,
        position_dtype: torch.dtype | None = None,
    ) -> VisionTokens:
        """Run all blocks but the last, without gradient.

        Args:
            pixels: (B, 3, H, W), normalised; H and W are multiples of the patch size.
            attention_blocks: of how many blocks right before the last to return the attention;
                where there are fewer blocks, that of all.
            position_dtype: round the resized positional embedding to this dtype first.
                ``torch.float16`` reproduces CLIP-ES, which does so in a float32 model too.

        Returns:
            The tokens that enter the last block, the attention, the grid.

        Raises:
            TypeError: ``pixels`` is no floating-point tensor.
            InputError: ``pixels`` has another shape, sides that are no multiple of the patch
                size, or is on another device; ``attention_blocks`` is negative.
        """
        _check_pixels(pixels, self.patch_size, self.device)
        if attention_blocks < 0:
            raise InputError(f"attention_blocks must be 0 or more, got {attention_blocks}")
        grid = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        tokens = self._tower.embed(pixels, position_dtype)
        before_last = len(self._tower.blocks) - 1
        maps = []
        for block in range(before_last):
            if block < before_last - attention_blocks:
                tokens = self._tower.run(block, tokens)
            else:
                activations = self._tower.norm(block, tokens)
                tokens, attention = self._tower.run_after_norm(block, tokens, activations)
                maps.append(attention)
        patches = grid[0] * grid[1]
        attention = (
            torch.stack(maps, dim=1) if maps else tokens.new_zeros(len(tokens), 0, patches, patches)
        )
        return VisionTokens(tokens, attention, grid)

    def last_block_norm(self, tokens: Tensor) -> Tensor:
        """The ``ln_1`` output of the last block, the layer whose gradient GradCAM takes.

        Args:
            tokens: (B, L, C), entering the last block.

        Returns:
            The activations, (B, L, C). Differentiable.
        """
        return self._tower.norm(-1, tokens)

    def after_norm(self, tokens: Tensor, activations: Tensor) -> LastBlock:
        """The rest of the last block: attention, residuals and MLP.

        Args:
            tokens: (B, L, C), entering the last block (the residual).
            activations: (B, L, C), what :meth:`last_block_norm` gave for them.

        Returns:
            The block's output (B, L, C) and its patch-to-patch attention (B, h*w, h*w). Both
            are differentiable in ``tokens`` and ``activations``, also by a batched backward;
            detach the attention where only its value is wanted.
        """
        return LastBlock(*self._tower.run_after_norm(-1, tokens, activations))

    @torch.no_grad()
    def pooled_block(self, tokens: Tensor) -> PooledBlock:
        """The last block's values, and its gradients averaged over the patches.

        What :meth:`after_norm`, :meth:`project` and autograd give, several times faster where only
        the mean gradient is wanted, as in GradCAM.

        Args:
            tokens: (B, 1 + h * w, C), entering the last block.

        Returns:
            The block's ``activations``, ``projected``, ``attention`` and ``mean_gradients``.
        """
        return self._tower.pooled_block(tokens)

    def project(self, block_output: Tensor) -> Tensor:
        """Patch features in the space of the texts, not normalised.

        Each patch token goes through ``ln_post`` and the projection; the class token is dropped.
        CLIP-ES's image embedding is their mean.

        Args:
            block_output: (B, 1 + h * w, C), what the last block gave.

        Returns:
            (B, h * w, D). Differentiable.
        """
        return self._tower.project(block_output)

    @torch.no_grad()
    def block_tokens(self, pixels: Tensor, blocks: Sequence[int]) -> Tensor:
        """The patch tokens after some of the blocks, what a decoder on the frozen model reads.

        Blocks after the last one named do not run.

        Args:
            pixels: (B, 3, H, W), normalised; H and W are multiples of the patch size.
            blocks: 0 is the first block, -1 the last; in ascending order.

        Returns:
            (B, len(blocks), h * w, C) in the model's dtype, without the class token; patches in
            row-major order.

        Raises:
            TypeError: ``pixels`` is no floating-point tensor, or a block no whole number.
            InputError: ``pixels`` has another shape, sides that are no multiple of the patch
                size, or is on another device; a block does not exist, or they do not ascend.

        Example:
            >>> from vpl_plugin.clip import load_clip
            >>> model = load_clip("mini", device="cpu")
            >>> model.block_tokens(torch.zeros(1, 3, 32, 48), (0, -1)).shape
            torch.Size([1, 2, 6, 192])
        """
        _check_pixels(pixels, self.patch_size, self.device)
        wanted = check_blocks(blocks, self.depth)
        tokens = self._tower.embed(pixels, None)
        levels = []
        for block in range(wanted[-1] + 1):
            tokens = self._tower.run(block, tokens)
            if block in wanted:
                levels.append(tokens[:, 1:])
        return torch.stack(levels, dim=1)

    def patch_projection(self) -> nn.Sequential:
        """A copy of what :meth:`project` does to a patch token, ``ln_post`` and the projection.

        Returns:
            A layer norm and a linear layer without bias, C to D, in float32 on the model's device.
            Its parameters are the copy's own: training them leaves the model as it is.
        """
        return self._tower.patch_projection()

    @torch.no_grad()
    def dense_features(self, pixels: Tensor, *, kind: str = "clip") -> Tensor:
        """A feature for each patch, comparable with text embeddings by cosine.

        Args:
            pixels: (B, 3, H, W), normalised; H and W are multiples of the patch size.
            kind: "clip" for the model as it is; "maskclip", "sclip", "clearclip" or "surgery" for
                the features of those methods; or one that a package of yours registers. See
                :data:`vpl_plugin.clip.feature_kinds.FEATURE_KINDS`.

        Returns:
            (B, h * w, D) in the model's dtype, unit rows; patches in row-major order.

        Raises:
            TypeError: ``pixels`` is no floating-point tensor.
            InputError: ``pixels`` has another shape, sides that are no multiple of the patch
                size, or is on another device; there is no such kind.

        Example:
            >>> from vpl_plugin.clip import load_clip
            >>> model = load_clip("mini", device="cpu")
            >>> model.dense_features(torch.zeros(1, 3, 32, 48), kind="sclip").shape
            torch.Size([1, 6, 256])
        """
        make = FEATURE_KINDS[kind]
        _check_pixels(pixels, self.patch_size, self.device)
        output = make(self._tower, self._tower.embed(pixels, None))
        return F.normalize(self.project(output), dim=-1)


def _normalisation(visual: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation open_clip notes on a model, CLIP's where it notes none."""
    mean = getattr(visual, "image_mean", None) or CLIP_MEAN
    std = getattr(visual, "image_std", None) or CLIP_STD
    return tuple(mean), tuple(std)


def _check_pixels(pixels: Tensor, patch_size: int, device: torch.device) -> None:
    """A batch of normalised photos whose sides are multiples of the patch size."""
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        got = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__qualname__
        raise TypeError(f"pixels must be a floating-point tensor (B, 3, H, W), got {got}")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise InputError(f"pixels must be of shape (B, 3, H, W), got {tuple(pixels.shape)}")
    height, width = pixels.shape[-2:]
    if height % patch_size or width % patch_size:
        raise InputError(
            f"pixels are {height} x {width} (height x width), and each side must be a multiple of "
            f"the patch size {patch_size}; preprocess(photo, patch_size={patch_size}) resizes so"
        )
    if pixels.device != device:
        raise InputError(f"pixels are on {pixels.device} and the model is on {device}")


def _check_texts(texts: Sequence[str]) -> None:
    """At least one text, and texts only."""
    if isinstance(texts, str):
        raise TypeError(f"texts must be a sequence of strings, got the one string {texts!r}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must hold strings, got {text!r}")
    if len(texts) == 0:
        raise InputError("texts must not be empty")
