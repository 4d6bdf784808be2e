"""The self-supervised step: prototypes trained by image labels and by the prototype-aware CAM.

From the paper: the network is trained by the classification loss (binary cross-entropy with the
image labels) and by the L1 distance of its CAM to the prototype-aware CAM. Our reading: CLIP is
frozen in the CLIP-ES pipeline, so what can be trained is its classifier, the prototypes. Their CAM
is taken at the projected patch features, where GradCAM has a closed form that gradients of the
prototypes pass through; the CAM step then uses the trained prototypes in GradCAM at the last block
as before. What is trained is small, and no photo passes through the encoder for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vpl_plugin.adapters.clip_cpal.constants import (
    CONSISTENCY_WEIGHT,
    EPOCHS,
    LEARNING_RATE,
    PHOTOS_A_STEP,
)
from vpl_plugin.core.checks import check_not_negative, check_positive

__all__ = ["Adaptation", "Example", "adapt_prototypes", "classifier_cams", "presence_logits"]

# Keeps a map of zeros from dividing by zero.
EPSILON = 1e-7


class Example(NamedTuple):
    """A photo in the self-supervised step.

    Attributes:
        features: (p, D), unit rows: all of its patches or a sample.
        photo_mean: (D,), the mean over all of its patches.
        classes: K indices of the classes present.
        targets: (K, p) in [0, 1], the prototype-aware CAMs at these patches.
    """

    features: Tensor
    photo_mean: Tensor
    classes: tuple[int, ...]
    targets: Tensor


class Adaptation(NamedTuple):
    """Trained prototypes, and how training went.

    Attributes:
        prototypes: (N, D), unit rows.
        classification: mean classification loss of each epoch.
        consistency: mean L1 distance of each epoch.
    """

    prototypes: Tensor
    classification: list[float]
    consistency: list[float]


def presence_logits(
    photo_mean: Tensor, prototypes: Tensor, *, num_foreground: int, temperature: float
) -> Tensor:
    """How much more a photo looks like each class than like the background.

    Args:
        photo_mean: (D,), the photo's embedding.
        prototypes: (N, D), the foreground rows, then the background's.
        num_foreground: F.
        temperature: of the logits.

    Returns:
        (F,), each class's logit against the logsumexp of the background's.

    Example:
        >>> mean = torch.tensor([2.0, 0.0])
        >>> presence_logits(mean, torch.eye(2), num_foreground=1, temperature=0.5)
        tensor([2.])
    """
    logits = F.normalize(prototypes, dim=1) @ F.normalize(photo_mean, dim=0) / temperature
    return logits[:num_foreground] - logits[num_foreground:].logsumexp(dim=0)


def classifier_cams(
    features: Tensor,
    photo_mean: Tensor,
    classes: Sequence[int],
    prototypes: Tensor,
    *,
    num_foreground: int,
    temperature: float,
) -> Tensor:
    r"""GradCAM at the projected features in closed form, differentiable in the prototypes.

    With e the photo's embedding, p the softmax over the classes present and the background, and
    :math:`\bar w = \sum_n p_n w_n`, the gradient of :math:`p_k` with respect to e points along
    :math:`w_k - \bar w` less its part along e; the map is the ReLU of the features' products with
    it, divided by its maximum.

    Args:
        features: (p, D), of one photo.
        photo_mean: (D,), its embedding.
        classes: K indices.
        prototypes: (N, D), the foreground rows, then the background's.
        num_foreground: F.
        temperature: of the softmax.

    Returns:
        (K, p) in [0, 1].

    Example:
        >>> features = torch.tensor([[1.0, 0.2], [0.2, 1.0]])
        >>> cams = classifier_cams(
        ...     features, features.mean(0), [0], torch.eye(2), num_foreground=1, temperature=1.0
        ... )
        >>> cams.round()
        tensor([[1., 0.]])
    """
    embedding = F.normalize(photo_mean, dim=0)
    background = range(num_foreground, len(prototypes))
    rows = F.normalize(prototypes, dim=1)[[*classes, *background]]
    mean = (rows @ embedding / temperature).softmax(dim=0) @ rows
    direction = rows[: len(classes)] - mean
    direction = direction - (direction @ embedding)[:, None] * embedding
    maps = torch.relu(direction @ features.T)
    return maps / (maps.amax(dim=1, keepdim=True) + EPSILON)


def adapt_prototypes(
    examples: Sequence[Example],
    prototypes: Tensor,
    *,
    num_foreground: int,
    temperature: float,
    weight: float = CONSISTENCY_WEIGHT,
    learning_rate: float = LEARNING_RATE,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = False,
) -> Adaptation:
    """Trains prototypes by Adam on the classification loss and the L1 distance of the two CAMs.

    Args:
        examples: the photos; read in a seeded order, one at a time.
        prototypes: (N, D) to start from, text or vision prototypes.
        num_foreground: number of foreground rows.
        temperature: that GradCAM takes with them.
        weight: of the L1 distance.
        learning_rate: of Adam.
        epochs: passes over the photos; 0 leaves the prototypes as they are.
        seed: of the order.
        progress: show a progress bar.

    Returns:
        The trained prototypes, and the losses of each epoch.

    Raises:
        ValueError: there is no photo, a number is out of its range.

    Example:
        >>> X = torch.eye(3)
        >>> photo = Example(X, X.mean(0), (0,), torch.tensor([[1.0, 0.0, 0.0]]))
        >>> start = torch.tensor([[0.5, 0.5, 0.5], [0.0, 1.0, 0.0]])
        >>> made = adapt_prototypes([photo], start, num_foreground=1, temperature=0.1, epochs=9)
        >>> made.consistency[-1] < made.consistency[0]
        True
    """
    if not examples:
        raise ValueError("examples is empty: the self-supervised step needs at least one photo")
    check_positive("temperature", temperature)
    check_positive("learning_rate", learning_rate)
    check_not_negative("weight", weight)
    check_not_negative("epochs", epochs)
    W = F.normalize(prototypes.detach().float(), dim=1).clone().requires_grad_()
    optimiser = torch.optim.Adam([W], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    classification, consistency = [], []
    with tqdm(
        total=epochs * len(examples), desc="adapt", unit="photo", disable=not progress
    ) as bar:
        for _ in range(epochs):
            sums = torch.zeros(2, device=W.device)
            for step in torch.randperm(len(examples), generator=generator).split(PHOTOS_A_STEP):
                optimiser.zero_grad()
                for index in step.tolist():
                    terms = _losses(examples[index], W, num_foreground, temperature)
                    ((terms[0] + weight * terms[1]) / len(step)).backward()
                    sums += torch.stack(terms).detach()
                    bar.update()
                optimiser.step()
            means = (sums / len(examples)).tolist()
            classification.append(means[0])
            consistency.append(means[1])
    return Adaptation(F.normalize(W.detach(), dim=1), classification, consistency)


def _losses(
    example: Example, prototypes: Tensor, num_foreground: int, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = presence_logits(
        example.photo_mean, prototypes, num_foreground=num_foreground, temperature=temperature
    )
    present = torch.zeros_like(logits)
    present[list(example.classes)] = 1.0
    cams = classifier_cams(
        example.features,
        example.photo_mean,
        example.classes,
        prototypes,
        num_foreground=num_foreground,
        temperature=temperature,
    )
    return (
        F.binary_cross_entropy_with_logits(logits, present),
        (cams - example.targets).abs().mean(),
    )
