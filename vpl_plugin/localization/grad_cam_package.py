"""The seam for users of the grad-cam package: a classifier over prototypes and its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpl_plugin.checks import describe
from vpl_plugin.errors import InputError
from vpl_plugin.localization.classes import pad_classes
from vpl_plugin.prototypes import Prototypes, check_prototypes

if TYPE_CHECKING:
    from vpl_plugin.clip.model import ClipModel

__all__ = ["ClassProbability", "PrototypeClassifier"]


class PrototypeClassifier(nn.Module):
    """CLIP with prototypes as its classes, in the shape ``pytorch_grad_cam`` expects of a model.

    Calling it with pixels (B, 3, H, W) gives probabilities (B, N). ``target_layer`` puts out the
    activations after the first layer norm of the last block, and ``reshape_transform`` lays them
    out as (B, C, h, w), for grids of any shape.

    With ``classes``, the softmax runs as in CLIP-ES over these foreground rows and all background
    rows, and the other rows have probability 0; :func:`vpl_plugin.localization.grad_cam` gives the
    same maps, for all classes of a batch at once.

    Args:
        model: the CLIP model.
        prototypes: text or vision prototypes; rows need no unit norm. Their temperature is the
            softmax's, CLIP's own (``1 / model.logit_scale``) where it is None.
        classes: the foreground classes that the photos show. None: every row is in the softmax.

    Raises:
        TypeError: ``prototypes`` are no :class:`~vpl_plugin.Prototypes`.
        InputError: prototypes of another width or device; with ``classes``, no background row, or a
            class that does not exist.

    Example:
        >>> from pytorch_grad_cam import GradCAM
        >>> from vpl_plugin.clip import load_clip
        >>> model = load_clip("mini", device="cpu")
        >>> prototypes = Prototypes(torch.eye(5, model.embed_dim), ("cat", "dog", "cow"))
        >>> classifier = PrototypeClassifier(model, prototypes)
        >>> cam = GradCAM(
        ...     model=classifier,
        ...     target_layers=[classifier.target_layer],
        ...     reshape_transform=classifier.reshape_transform,
        ... )
        >>> pixels = torch.zeros(1, 3, 32, 48)
        >>> cam(input_tensor=pixels, targets=[ClassProbability(2)]).shape
        (1, 32, 48)
    """

    excluded: Tensor

    def __init__(
        self,
        model: ClipModel,
        prototypes: Prototypes,
        *,
        classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_prototypes(prototypes, model.embed_dim, background=classes is not None)
        rows = prototypes.rows
        if rows.device != model.device:
            raise InputError(
                f"prototypes must be on the model's device {model.device}; got {describe(rows)}"
            )
        self.temperature = prototypes.temperature or 1.0 / model.logit_scale
        excluded = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if classes is not None:
            excluded[: prototypes.num_foreground] = True
            excluded[pad_classes([classes], prototypes.num_foreground)[0]] = False
        self.model = model
        # Registered so that moving the classifier moves the model's weights along.
        self.weights = model.module
        unit = F.normalize(rows.detach(), dim=1)
        self.prototypes = nn.Parameter(unit, requires_grad=False)
        self.register_buffer("excluded", excluded)
        self.target_layer = nn.Identity()
        self._grid = (1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (B, N) of CLIP-normalised pixels (B, 3, H, W)."""
        # No affinity follows here, so nobody asks for the earlier blocks' attention.
        tokens = self.model.tokens_before_last_block(pixels, attention_blocks=0)
        self._grid = tokens.grid
        with torch.no_grad():
            activations = self.model.last_block_norm(tokens.tokens)
        # A leaf here makes the target layer the only way the gradient takes: grad-cam hooks it.
        activations = self.target_layer(activations.requires_grad_())
        block_output, _ = self.model.after_norm(tokens.tokens, activations)
        embedding = F.normalize(self.model.project(block_output).mean(dim=1), dim=1)
        logits = embedding.to(self.prototypes.dtype) @ self.prototypes.T / self.temperature
        return logits.masked_fill(self.excluded, -torch.inf).softmax(dim=1)

    def reshape_transform(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1 + h * w, C) of the last photos seen to maps (B, C, h, w)."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self._grid)


class ClassProbability:
    """The target of grad-cam: the probability of one class.

    Args:
        index: row of the prototypes, the class's own index.

    Raises:
        InputError: ``index`` is negative or no whole number; or, when called, beyond the outputs.

    Example:
        >>> ClassProbability(1)(torch.tensor([0.2, 0.7, 0.1]))
        tensor(0.7000)
    """

    def __init__(self, index: int) -> None:
        if not isinstance(index, int) or index < 0:
            raise InputError(f"index must be a whole number of 0 or more; got {index!r}")
        self.index = index

    def __call__(self, probabilities: Tensor) -> Tensor:
        """The probability (...) of the class, out of probabilities (..., N)."""
        if self.index >= probabilities.shape[-1]:
            raise InputError(
                f"index must be below the number of classes {probabilities.shape[-1]};"
                f" got {self.index}"
            )
        return probabilities[..., self.index]
