"""Training the decoder of phase 2 on pseudo-masks (Eq. 14), the encoder frozen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vpl_plugin.checks import check_blocks, check_count
from vpl_plugin.clip import ClipModel
from vpl_plugin.clip.out_of_memory import is_out_of_memory
from vpl_plugin.core.vpl_loss import VPLLossTerms, vpl_loss
from vpl_plugin.distributed import Ranks
from vpl_plugin.errors import InputError
from vpl_plugin.localization.mask_files import IGNORE_INDEX
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.results import Results
from vpl_plugin.segmentation.augmentation import check_scales
from vpl_plugin.segmentation.checkpoints import Segmenter, load_segmenter, save_checkpoint
from vpl_plugin.segmentation.data_parallel import (
    gather,
    gather_with_gradient,
    sum_gradients,
)
from vpl_plugin.segmentation.decoder import Decoder, DecoderOutput
from vpl_plugin.segmentation.examples import Example, MaskFacts, check_examples
from vpl_plugin.segmentation.feature_cache import FeatureCache
from vpl_plugin.segmentation.metrics import MetricsLog
from vpl_plugin.segmentation.resizing import resize_maps
from vpl_plugin.segmentation.sampler import PartSampler
from vpl_plugin.segmentation.samples import CachedSamples, PhotoSamples, Sample
from vpl_plugin.segmentation.schedule import poly_learning_rate
from vpl_plugin.segmentation.settings import (
    DEFAULT_TEMPERATURE,
    TrainingSettings,
    default_blocks,
    default_scales,
)
from vpl_plugin.segmentation.training_state import TrainingState

__all__ = ["DECODER_FILE", "STATE_FILE", "TrainingSettings", "decoder_loss", "train_decoder"]

STATE_FILE = "state.pt"
DECODER_FILE = "decoder.safetensors"


def train_decoder(
    model: ClipModel,
    examples: Sequence[Example],
    prototypes: Prototypes,
    settings: TrainingSettings,
    output: Path,
    *,
    cache: Path | None = None,
    validate: Callable[[Segmenter], Mapping[str, float]] | None = None,
    validate_every: int = 1000,
    checkpoint_every: int = 500,
    log_every: int = 50,
    workers: int = 0,
    progress: bool = True,
) -> Segmenter:
    r"""Train a decoder on the frozen encoder by Eq. 14 of the VPL paper.

    .. math:: L = \lambda_{ce} L_{ce}(M, A) + \lambda_{RSC} L_{RSC}

    Everything random is a function of the seed, the iteration and the place in the batch, so a
    training that was killed and is started again ends with the weights it would have had: bit for
    bit on a CPU, on a GPU as far as its kernels are deterministic.

    Under ``torchrun``, in an initialised process group, the ranks share the batch: encoder and
    decoder run on each rank's photos, while the loss is that of the whole batch on every rank, with
    the mean over all labelled pixels and RSC's negatives from all photos. So the result
    is that of one process, to rounding. The ranks need one ``output`` and one ``cache`` folder.

    Args:
        model: the encoder, on the device to train on; no tensor of it changes.
        examples: photos and pseudo-masks; all are checked first.
        prototypes: W.
        settings: of the training.
        output: folder for ``decoder.safetensors`` (see
            :func:`~vpl_plugin.segmentation.checkpoints.load_segmenter`), ``state.pt`` (what
            resuming needs), ``metrics.csv`` and ``validation.csv``. What lies there of the same
            training is gone on with, and a finished one is returned at once.
        cache: folder of tokens to train from, filled first; see
            :mod:`~vpl_plugin.segmentation.feature_cache` for what that costs and gains. None runs
            the encoder on augmented photos.
        validate: measures the decoder as it is, in eval mode; called on rank 0, while the others
            wait, for no longer than the process group's timeout.
        validate_every: iterations between two calls; the last iteration is always followed by one.
        checkpoint_every: iterations between two checkpoints, which are written whole or not at all.
        log_every: iterations between two rows of ``metrics.csv``, means over those between; the
            only time the loop waits for the device.
        workers: processes that read photos and masks; 0 reads in this one.
        progress: show a bar.

    Returns:
        The trained decoder on the encoder, in eval mode.

    Raises:
        FileNotFoundError, InputError: an example does not fit, see
            :func:`~vpl_plugin.segmentation.examples.check_examples`; the prototypes are not of the
            model's D; the crop is not a multiple of the patch size; the batch cannot be shared
            by the ranks; or ``output`` or ``cache`` hold files of other settings.
        MemoryError: the GPU's memory is full; the message says which settings need less.
        FloatingPointError: the loss or a weight is not finite; the last checkpoint stays.
    """
    for name, value in (
        ("validate_every", validate_every),
        ("checkpoint_every", checkpoint_every),
        ("log_every", log_every),
    ):
        check_count(name, value)
    ranks = Ranks.of_group()
    blocks = check_blocks(settings.blocks or default_blocks(model.depth), model.depth)
    scales = settings.scales or default_scales(cached=cache is not None)
    settings = replace(
        settings,
        blocks=blocks,
        scales=scales,
        temperature=settings.temperature or prototypes.temperature or DEFAULT_TEMPERATURE,
        precision=_precision(settings, model.device),
    )
    _check_fit(model, settings, ranks)
    classes, num_foreground = prototypes.class_names, prototypes.num_foreground
    if cache is None:
        # A range here, a list of scales in the cache.
        check_scales(scales)
    decoder = _new_decoder(model, prototypes, settings)
    masks = check_examples(examples, num_foreground, ranks=ranks, device=model.device)
    made_by = _describe(
        model, examples, masks, decoder, settings, classes, cached=cache is not None
    )
    output = Path(output)
    if ranks.rank == 0:
        Results.claim(output, made_by)
    ranks.wait()
    store = None
    if cache is not None:
        store = FeatureCache(cache, model, blocks, scales, alone=ranks.world == 1)
        store.fill(examples, rank=ranks.rank, world=ranks.world, progress=progress)
        ranks.wait()
    state = TrainingState(decoder, settings, model.device)
    state.load(output / STATE_FILE)
    samples = _samples(model, examples, num_foreground, settings, scales, store)
    segmenter = Segmenter(model, decoder, blocks, classes)
    if state.iteration < settings.iterations:
        log = MetricsLog(output, state.iteration) if ranks.rank == 0 else None
        steps = _steps(model, samples, len(examples), state, settings, ranks, workers, log_every)
        bar = tqdm(
            steps,
            desc="train",
            unit="iteration",
            initial=state.iteration,
            total=settings.iterations,
            disable=not progress or ranks.rank > 0,
        )
        for metrics in bar:
            done, last = state.iteration, state.iteration == settings.iterations
            if metrics is not None:
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                if log is not None:
                    log.write("metrics", done, metrics)
            if validate is not None and (last or done % validate_every == 0):
                if log is not None:
                    decoder.eval()
                    log.write("validation", done, validate(segmenter))
                    decoder.train()
                ranks.wait()
            if log is not None and (last or done % checkpoint_every == 0):
                state.check_finite()
                save_checkpoint(
                    output / DECODER_FILE,
                    decoder,
                    model=model,
                    blocks=blocks,
                    classes=classes,
                    made_by={**made_by, "iterations_done": done},
                )
                # Last, so that a state never stands beside an older decoder or fewer rows.
                state.save(output / STATE_FILE)
        if log is not None:
            log.close()
        ranks.wait()
    return load_segmenter(output / DECODER_FILE, model)


def decoder_loss(
    output: DecoderOutput,
    masks: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    settings: TrainingSettings,
    inside: Tensor | None = None,
) -> VPLLossTerms:
    """Eq. 14 for what the decoder gave.

    RSC contrasts the foreground classes: nobody knows which of the background prototypes a photo
    shows. Those only take their share of the pixels where ``settings.activation`` is "softmax" or
    "present".

    Args:
        output: of the decoder, B photos.
        masks: (B, H, W) integer labels, 255 where nothing is known.
        labels: (B, F), the classes present.
        prototypes: (N, D), the decoder's.
        settings: weights, temperature, stride of the masks.
        inside: (B, h, w), the patches that show the photo, and not padding; None for all.

    Returns:
        The total and its terms.
    """
    stride = settings.mask_stride
    # The middle of each cell, where the resized maps have their pixel.
    masks = masks[:, stride // 2 :: stride, stride // 2 :: stride]
    logits = resize_maps(output.logits, (masks.shape[1], masks.shape[2]))
    if inside is not None:
        fine = output.embeddings.shape[2] // inside.shape[1]
        inside = inside.repeat_interleave(fine, dim=1).repeat_interleave(fine, dim=2)
    return vpl_loss(
        logits,
        masks,
        output.embeddings,
        prototypes,
        F.pad(labels, (0, len(prototypes) - labels.shape[1])),
        lambda_ce=settings.lambda_ce,
        lambda_rsc=settings.lambda_rsc,
        tau=settings.tau,
        activation=settings.activation,
        detach_masks=settings.detach_masks,
        centred=settings.centred,
        least_area=settings.least_area,
        num_background=len(prototypes) - labels.shape[1],
        inside=inside,
        ce=settings.ce,
        ignore_index=IGNORE_INDEX,
    )


def _steps(
    model: ClipModel,
    samples: Dataset[Sample],
    num_examples: int,
    state: TrainingState,
    settings: TrainingSettings,
    ranks: Ranks,
    workers: int,
    log_every: int,
) -> Iterator[dict[str, float] | None]:
    """Runs iterations; after each yields None, or the means since the last time."""
    device = model.device
    sampler = PartSampler(
        state.iteration,
        settings.iterations,
        batch_size=settings.batch_size,
        num_examples=num_examples,
        seed=settings.seed,
        accumulation=settings.accumulation,
        rank=ranks.rank,
        world=ranks.world,
    )
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # The loader seeds its processes from a generator, and must not touch the global one.
        generator=torch.Generator(),
    )
    decoder, parameters = state.decoder.train(), list(state.decoder.parameters())
    parts = iter(loader)
    begun, since = time.perf_counter(), state.iteration
    while state.iteration < settings.iterations:
        rate = poly_learning_rate(
            settings.learning_rate,
            state.iteration,
            settings.iterations,
            power=settings.power,
            warmup=settings.warmup,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        with _memory_advice(settings, ranks, device):
            for _ in range(settings.accumulation):
                terms = _part(model, decoder, next(parts), settings, ranks)
                state.scaler.scale(terms.total / settings.accumulation).backward()
                state.sums += torch.stack([term.detach() for term in terms]) / settings.accumulation
        if ranks.world > 1:
            sum_gradients(parameters)
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.iteration += 1
        state.summed += 1
        if state.iteration % log_every and state.iteration < settings.iterations:
            yield None
            continue
        state.check_finite()
        loss, ce, rsc = (state.sums / state.summed).tolist()
        seconds = time.perf_counter() - begun
        photos = (state.iteration - since) * settings.batch_size
        state.sums.zero_()
        state.summed = 0
        yield {
            "learning_rate": rate,
            "loss": loss,
            "ce": ce,
            "rsc": rsc,
            "photos_per_second": round(photos / seconds, 2),
        }
        begun, since = time.perf_counter(), state.iteration


def _part(
    model: ClipModel,
    decoder: Decoder,
    sample: Sample,
    settings: TrainingSettings,
    ranks: Ranks,
) -> VPLLossTerms:
    """The loss of a part of the batch, over the photos of all ranks."""
    device = model.device
    source, masks, labels, inside = (value.to(device, non_blocking=True) for value in sample)
    if source.dtype == torch.uint8:
        tokens = model.block_tokens(model.normalise(source), settings.blocks or ())
    else:
        tokens = source
    side = settings.crop // model.patch_size
    precision = getattr(torch, settings.precision or "float32")
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        output = decoder(tokens, (side, side))
    if ranks.world > 1:
        output = DecoderOutput(*(gather_with_gradient(maps, ranks) for maps in output))
        masks, labels, inside = (gather(value, ranks) for value in (masks, labels, inside))
    return decoder_loss(output, masks, labels, decoder.prototypes, settings, inside)


@contextmanager
def _memory_advice(
    settings: TrainingSettings, ranks: Ranks, device: torch.device
) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        share = settings.batch_size // (settings.accumulation * ranks.world)
        raise MemoryError(
            f"{device} has no memory left for {share} photo(s) of {settings.crop} pixels at once:"
            f" raise accumulation ({settings.accumulation}) to as much as"
            f" {settings.batch_size // ranks.world}, or lower batch_size ({settings.batch_size}),"
            f" crop ({settings.crop}) or width ({settings.width}), or raise mask_stride"
            f" ({settings.mask_stride}). {error}"
        ) from error


def _samples(
    model: ClipModel,
    examples: Sequence[Example],
    num_foreground: int,
    settings: TrainingSettings,
    scales: Sequence[float],
    store: FeatureCache | None,
) -> Dataset[Sample]:
    if store is not None:
        return CachedSamples(
            examples,
            num_foreground,
            store,
            crop=settings.crop,
            patch_size=model.patch_size,
            seed=settings.seed,
            rsc_labels=settings.rsc_labels,
        )
    least, largest = scales
    return PhotoSamples(
        examples,
        num_foreground,
        crop=settings.crop,
        patch_size=model.patch_size,
        scales=(least, largest),
        seed=settings.seed,
        rsc_labels=settings.rsc_labels,
    )


def _new_decoder(model: ClipModel, prototypes: Prototypes, settings: TrainingSettings) -> Decoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Decoder.for_model(
            model,
            prototypes,
            settings.blocks or (),
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            upsampling=settings.upsampling,
            temperature=settings.temperature or DEFAULT_TEMPERATURE,
        )


def _precision(settings: TrainingSettings, device: torch.device) -> str:
    if settings.precision is not None:
        return settings.precision
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _check_fit(model: ClipModel, settings: TrainingSettings, ranks: Ranks) -> None:
    if settings.crop % model.patch_size:
        raise InputError(
            f"crop must be a multiple of the model's patch size {model.patch_size};"
            f" got {settings.crop}"
        )
    if settings.batch_size % (settings.accumulation * ranks.world):
        raise InputError(
            "batch_size must be a multiple of accumulation times the number of ranks;"
            f" got {settings.batch_size}, {settings.accumulation} and {ranks.world}"
        )


def _describe(
    model: ClipModel,
    examples: Sequence[Example],
    masks: Sequence[MaskFacts],
    decoder: Decoder,
    settings: TrainingSettings,
    classes: Sequence[str],
    *,
    cached: bool,
) -> dict[str, Any]:
    """All that the weights depend on, for the output folder and the trained decoder's file."""
    data = hashlib.sha256()
    for example, mask in zip(examples, masks, strict=True):
        data.update(repr((example.name, example.classes, mask.digest)).encode())
    rows = decoder.prototypes.cpu().numpy().tobytes()
    return {
        "kind": "training of a decoder",
        "settings": asdict(settings),
        "encoder": model.fingerprint(),
        "prototypes": hashlib.sha256(rows).hexdigest()[:16],
        "classes": list(classes),
        "examples": len(examples),
        "pseudo_masks": data.hexdigest()[:16],
        "cached_tokens": cached,
    }
