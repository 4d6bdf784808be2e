"""The settings of a training, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from vpl_plugin.checks import check_choice, check_count, check_not_negative, check_positive
from vpl_plugin.core.cross_entropy import CROSS_ENTROPIES
from vpl_plugin.core.rsc import Contrast
from vpl_plugin.errors import InputError

__all__ = [
    "DEFAULT_TEMPERATURE",
    "PRECISIONS",
    "TrainingSettings",
    "default_blocks",
    "default_scales",
]

# The paper's tau_I, where prototypes say none.
DEFAULT_TEMPERATURE = 0.03
RSC_LABELS = ("crop", "photo")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that the weights of a trained decoder depend on, beside the data.

    Momentum, weight decay, batch size, iterations and lambda_ce are the paper's. It names no
    learning rate, schedule, crop or layers: those are this package's. So are the balanced
    cross-entropy and the form and weight of the regional contrast, which photographs speak for
    (docs/evidence.md); ``ce="plain", lambda_rsc=1.0, activation="none", centred=False`` and
    ``mask_stride=1`` are Eq. 14's.

    Attributes:
        blocks: blocks whose tokens the decoder reads, from 0, ascending; up to four by default, see
            :func:`default_blocks`.
        width: of the decoder's layers.
        layers: transformer layers of the decoder.
        heads: of their attention.
        upsampling: embeddings to a patch and axis.
        temperature: of the encoder's own features; the prototypes' own by default.
        iterations: steps of the optimizer.
        batch_size: photos per iteration, over all parts and processes.
        accumulation: parts that a batch is cut into, one after the other in memory. RSC finds its
            negatives, and the balanced cross-entropy its two halves, within a part.
        learning_rate: at the start of the poly schedule.
        momentum: of SGD.
        weight_decay: of SGD.
        power: of the poly schedule.
        warmup: iterations in which the learning rate rises to the schedule's.
        clip_norm: the largest norm of the gradient of an iteration.
        crop: side of the crops in pixels, a multiple of the patch size.
        scales: least and largest random scale, 0.5 2.0 by default; from a cache the scales that are
            cached, 1 by default.
        mask_stride: the cross-entropy is taken at every so many rows and columns of the mask. 1 is
            every pixel; at 4 a patch of 16 pixels a side still has 16 of them, and the loss takes a
            tenth of the time on a CPU.
        lambda_ce: weight of the cross-entropy.
        lambda_rsc: weight of regional semantic contrast, see
            :func:`~vpl_plugin.core.vpl_loss.vpl_loss`.
        tau: temperature of regional semantic contrast, see
            :func:`~vpl_plugin.core.rsc.rsc_loss`.
        activation: of its masks: relu, sigmoid, softmax, present or none.
        detach_masks: no gradient through its masks.
        centred: its cosines are about the mean of the batch.
        least_area: share of a crop that a class's mask must cover to count in it.
        rsc_labels: the classes that count in RSC: those of the photo that the crop's pseudo-mask
            shows (crop), or all of the photo's (photo), for pseudo-masks that name wrong classes.
        ce: cross-entropy: plain, Eq. 14's, or balanced, half of it the background's.
        seed: of the decoder's start, the order of the examples and their augmentation.
        precision: what the decoder computes in: float32, bfloat16 or float16 (the last two by
            autocast, with a scaled loss for float16); by default bfloat16 on a GPU that has it,
            float16 on another, float32 on a CPU.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> TrainingSettings(batch_size=6, accumulation=4)
        Traceback (most recent call last):
        vpl_plugin.errors.InputError: batch_size must be a multiple of accumulation; got 6 and 4
    """

    blocks: tuple[int, ...] | None = None
    width: int = 256
    layers: int = 3
    heads: int = 8
    upsampling: int = 1
    temperature: float | None = None
    iterations: int = 30_000
    batch_size: int = 6
    accumulation: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    warmup: int = 100
    clip_norm: float = 5.0
    crop: int = 320
    scales: tuple[float, ...] | None = None
    mask_stride: int = 4
    lambda_ce: float = 1.0
    lambda_rsc: float = 0.1
    tau: float = 0.07
    activation: str = "present"
    detach_masks: bool = False
    centred: bool = True
    least_area: float = 0.0
    rsc_labels: str = "crop"
    ce: str = "balanced"
    seed: int = 0
    precision: str | None = None

    def __post_init__(self) -> None:
        for name in [
            "width",
            "layers",
            "heads",
            "upsampling",
            "iterations",
            "batch_size",
            "accumulation",
            "crop",
            "mask_stride",
        ]:
            check_count(name, getattr(self, name))
        for name in ("learning_rate", "power", "clip_norm"):
            check_positive(name, getattr(self, name))
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        for name in ("momentum", "weight_decay", "warmup", "lambda_ce", "lambda_rsc", "seed"):
            check_not_negative(name, getattr(self, name))
        if self.momentum >= 1:
            raise InputError(f"momentum must lie in [0, 1); got {self.momentum!r}")
        if self.lambda_ce == self.lambda_rsc == 0:
            raise InputError("lambda_ce or lambda_rsc must be above 0; got 0 and 0")
        if self.scales is not None and not (self.scales and min(self.scales) > 0):
            raise InputError(f"scales must be numbers above 0; got {self.scales!r}")
        Contrast(
            self.tau, self.activation, self.detach_masks, self.centred, self.least_area
        ).check()
        check_choice("rsc_labels", self.rsc_labels, RSC_LABELS)
        check_choice("ce", self.ce, CROSS_ENTROPIES)
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        if self.width % self.heads:
            raise InputError(
                f"width must be a multiple of heads; got {self.width} and {self.heads}"
            )
        if self.batch_size % self.accumulation:
            raise InputError(
                "batch_size must be a multiple of accumulation;"
                f" got {self.batch_size} and {self.accumulation}"
            )


def default_blocks(depth: int) -> tuple[int, ...]:
    """Up to four blocks, evenly spaced, the last one included.

    Example:
        >>> default_blocks(12), default_blocks(2)
        ((2, 5, 8, 11), (0, 1))
    """
    levels = min(4, depth)
    return tuple((level + 1) * depth // levels - 1 for level in range(levels))


def default_scales(*, cached: bool) -> tuple[float, ...]:
    """The range that a photo's scale is drawn from, or the only scale that is cached.

    Example:
        >>> default_scales(cached=False), default_scales(cached=True)
        ((0.5, 2.0), (1.0,))
    """
    return (1.0,) if cached else (0.5, 2.0)
