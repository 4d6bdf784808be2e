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
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from vpl_plugin.adapters.clip_cpal.constants import (
    CONSISTENCY_WEIGHT,
    EPOCHS,
    LEARNING_RATE,
    PHOTOS_PER_STEP,
)
from vpl_plugin.checks import check_not_negative, check_positive
from vpl_plugin.errors import InputError
from vpl_plugin.prototypes import Prototypes

__all__ = [
    "Adaptation",
    "Example",
    "adapt_prototypes",
    "classifier_cams",
    "presence_logits",
    "step_losses",
]

# Keeps a map of zeros from dividing by zero.
EPSILON = 1e-7


class Example(NamedTuple):
    """A photo in the self-supervised step.

    Attributes:
        features: (p, D), unit rows to rounding, of any floating-point dtype: all of its patches or
            a sample.
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
        prototypes: of unit rows; temperature and classes are those of the start.
        classification: mean classification loss of each epoch.
        consistency: mean L1 distance of each epoch.
    """

    prototypes: Prototypes
    classification: list[float]
    consistency: list[float]


def presence_logits(photo_means: Tensor, prototypes: Prototypes) -> Tensor:
    """How much more photos look like each class than like the background.

    Args:
        photo_means: (..., D), the photos' embeddings.
        prototypes: F classes, then background, with the temperature of the logits.

    Returns:
        (..., F), each class's logit against the logsumexp of the background's.

    Example:
        >>> presence_logits(torch.tensor([2.0, 0.0]), Prototypes(torch.eye(2), ("cat",), 0.5))
        tensor([2.])
    """
    logits = _logits(photo_means, prototypes)
    sizes = (prototypes.num_foreground, len(prototypes.background))
    foreground, background = logits.split(sizes, dim=-1)
    return foreground - background.logsumexp(dim=-1, keepdim=True)


def _logits(photo_means: Tensor, prototypes: Prototypes) -> Tensor:
    """(..., N), the photos' cosines to all prototypes, over the temperature."""
    if prototypes.temperature is None:
        raise InputError(
            "prototypes must have a temperature here; CLIP's own is 1 / model.logit_scale"
        )
    cosines = F.normalize(photo_means, dim=-1) @ F.normalize(prototypes.rows, dim=1).T
    return cosines / prototypes.temperature


def classifier_cams(
    features: Tensor,
    photo_means: Tensor,
    classes: Sequence[Sequence[int]],
    prototypes: Prototypes,
) -> Tensor:
    r"""GradCAM at the projected features in closed form, differentiable in the prototypes.

    With e the photo's embedding, p the softmax over the classes present and the background, and
    :math:`\bar w = \sum_n p_n w_n`, the gradient of :math:`p_k` with respect to e points along
    :math:`w_k - \bar w` less its part along e; the map is the ReLU of the features' products with
    it, divided by its maximum.

    Args:
        features: (B, P, D), of B photos; rows of zeros beyond the patches of a photo.
        photo_means: (B, D), their embeddings.
        classes: of each photo the indices of its classes.
        prototypes: with the temperature of the softmax; gradients go to their rows.

    Returns:
        (B, K, P) in [0, 1], K the most classes of a photo; zeros beyond the classes of a photo.

    Example:
        >>> features = torch.tensor([[[1.0, 0.2], [0.2, 1.0]]])
        >>> prototypes = Prototypes(torch.eye(2), ("cat",), temperature=1.0)
        >>> classifier_cams(features, features.mean(1), [[0]], prototypes).round()
        tensor([[[1., 0.]]])
    """
    device = prototypes.rows.device
    embeddings = F.normalize(photo_means, dim=1)
    rows = F.normalize(prototypes.rows, dim=1)
    absent = ~_present(classes, prototypes.num_foreground)
    absent = F.pad(absent, (0, len(prototypes.background)), value=False).to(device)
    logits = _logits(photo_means, prototypes).masked_fill(absent, -torch.inf)
    means = logits.softmax(dim=1) @ rows
    indices = pad_sequence([torch.tensor([*found]) for found in classes], batch_first=True)
    directions = rows[indices.to(device)] - means[:, None]
    along = (directions * embeddings[:, None]).sum(dim=2, keepdim=True)
    directions = directions - along * embeddings[:, None]
    maps = torch.relu(directions @ features.mT) * _shown(classes).to(device)[:, :, None]
    return maps / (maps.amax(dim=2, keepdim=True) + EPSILON)


def step_losses(examples: Sequence[Example], prototypes: Prototypes) -> tuple[Tensor, Tensor]:
    """Both losses of some photos at once.

    Args:
        examples: B photos; all go to the prototypes' device.
        prototypes: with the temperature that GradCAM takes with them; gradients go to their rows.

    Returns:
        (B,) each: the binary cross-entropy with the photo's labels, and the mean L1 distance of its
        CAMs to the prototype-aware ones.

    Example:
        >>> X = torch.eye(3)
        >>> photo = Example(X, X.mean(0), (0,), torch.tensor([[1.0, 0.0, 0.0]]))
        >>> losses = step_losses([photo, photo], Prototypes(torch.eye(2, 3), ("cat",), 1.0))
        >>> losses[0], losses[1] < 1e-6
        (tensor([0.6931, 0.6931]), tensor([True, True]))
    """
    device, dtype = prototypes.rows.device, prototypes.rows.dtype
    classes = [example.classes for example in examples]
    means = torch.stack([example.photo_mean for example in examples]).to(device, dtype)
    features = pad_sequence([example.features for example in examples], batch_first=True)
    features = F.normalize(features.to(device, dtype), dim=2)
    logits = presence_logits(means, prototypes)
    present = _present(classes, prototypes.num_foreground).to(device, dtype)
    classification = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    cams = classifier_cams(features, means, classes, prototypes)
    targets = torch.zeros_like(cams)
    for row, example in zip(targets, examples, strict=True):
        row[: len(example.classes), : len(example.features)] = example.targets
    # Beyond a photo's classes and patches both are zeros.
    distance = (cams - targets).abs().sum(dim=(1, 2))
    entries = [len(example.classes) * len(example.features) for example in examples]
    return classification.mean(dim=1), distance / torch.tensor(entries, device=device)


def _present(classes: Sequence[Sequence[int]], num_foreground: int) -> Tensor:
    """(B, F) bool, multi-hot."""
    present = torch.zeros(len(classes), num_foreground, dtype=torch.bool)
    for row, found in zip(present, classes, strict=True):
        row[[*found]] = True
    return present


def _shown(classes: Sequence[Sequence[int]]) -> Tensor:
    """(B, K) bool: which of the places for classes are taken."""
    counts = torch.tensor([len(found) for found in classes])
    return torch.arange(int(counts.max())) < counts[:, None]


def adapt_prototypes(
    examples: Sequence[Example],
    prototypes: Prototypes,
    *,
    weight: float = CONSISTENCY_WEIGHT,
    learning_rate: float = LEARNING_RATE,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = False,
) -> Adaptation:
    """Trains prototypes by Adam on the classification loss and the L1 distance of the two CAMs.

    Args:
        examples: the photos; read in a seeded order, as many at a time as a step takes.
        prototypes: to start from, with the temperature that GradCAM takes with them: text
            prototypes take ``1 / model.logit_scale``.
        weight: of the L1 distance.
        learning_rate: of Adam.
        epochs: passes over the photos; 0 leaves the prototypes as they are.
        seed: of the order.
        progress: show a progress bar.

    Returns:
        The trained prototypes, and the losses of each epoch.

    Raises:
        ValueError: there is no photo, no temperature, or a number is out of its range.

    Example:
        >>> X = torch.eye(3)
        >>> photo = Example(X, X.mean(0), (0,), torch.tensor([[1.0, 0.0, 0.0]]))
        >>> rows = torch.tensor([[0.5, 0.5, 0.5], [0.0, 1.0, 0.0]])
        >>> made = adapt_prototypes([photo], Prototypes(rows, ("cat",), 0.1), epochs=9)
        >>> made.consistency[-1] < made.consistency[0]
        True
    """
    if not examples:
        raise InputError("examples is empty: the self-supervised step needs at least one photo")
    check_positive("learning_rate", learning_rate)
    check_not_negative("weight", weight)
    check_not_negative("epochs", epochs)
    W = F.normalize(prototypes.rows.detach().float(), dim=1).clone().requires_grad_()
    optimiser = torch.optim.Adam([W], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    classification, consistency = [], []
    with tqdm(
        total=epochs * len(examples), desc="adapt", unit="photo", disable=not progress
    ) as bar:
        for _ in range(epochs):
            sums = torch.zeros(2, device=W.device)
            for step in torch.randperm(len(examples), generator=generator).split(PHOTOS_PER_STEP):
                optimiser.zero_grad()
                photos = [examples[index] for index in step.tolist()]
                terms = step_losses(photos, replace(prototypes, rows=W))
                (terms[0] + weight * terms[1]).mean().backward()
                optimiser.step()
                sums += torch.stack(terms).detach().sum(dim=1)
                bar.update(len(step))
            means = (sums / len(examples)).tolist()
            classification.append(means[0])
            consistency.append(means[1])
    trained = replace(prototypes, rows=F.normalize(W.detach(), dim=1))
    return Adaptation(trained, classification, consistency)
