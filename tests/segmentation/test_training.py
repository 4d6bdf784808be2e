"""Training: it learns, leaves the encoder alone, and ends alike however often it is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from vpl_plugin.clip import load_clip, open_photo
from vpl_plugin.core.cross_entropy import balanced_cross_entropy
from vpl_plugin.core.rsc import region_similarity, rsc_loss
from vpl_plugin.localization import read_mask, write_mask
from vpl_plugin.prototypes import Prototypes
from vpl_plugin.segmentation import training
from vpl_plugin.segmentation.checkpoints import load_segmenter, read_checkpoint_metadata
from vpl_plugin.segmentation.decoder import Decoder, DecoderOutput, class_maps
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import decoder_loss
from vpl_plugin.segmentation.training_state import TrainingState

LITERAL = {
    "activation": "relu",
    "centred": False,
    "detach_masks": False,
    "least_area": 0.0,
    "mask_stride": 1,
}


def weights(output):
    return load_file(output / "decoder.safetensors")


def assert_same_weights(output, expected, **tolerance):
    ours, theirs = weights(output), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if tolerance:
            torch.testing.assert_close(value, theirs[name], **tolerance)
        else:
            assert torch.equal(value, theirs[name]), name


def differ(output, other):
    ours, theirs = weights(output), weights(other)
    return any(not torch.equal(value, theirs[name]) for name, value in ours.items())


def rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def start(data, output, settings=None, killed_at=0, **environment):
    program = Path(__file__).with_name("train_tiny.py")
    arguments = [str(data), str(output), json.dumps(settings or {}), str(killed_at)]
    return subprocess.Popen(
        [sys.executable, str(program), *arguments], env={**os.environ, **environment}
    )


@pytest.mark.parametrize("cached", [False, True])
def test_learns_to_segment(tiny, data, mini, tmp_path, cached):
    settings = {"iterations": 60, "learning_rate": 0.1, "mask_stride": 2, "scales": (1.0, 1.0)}
    cache = tmp_path / "cache" if cached else None
    segmenter = tiny.train(
        data, tmp_path / "out", model=mini, settings=settings, cache=cache, log_every=10
    )
    noted = rows(tmp_path / "out" / "metrics.csv")
    assert [int(row["iteration"]) for row in noted] == [10, 20, 30, 40, 50, 60]
    assert float(noted[-1]["ce"]) < 0.3 * float(noted[0]["ce"])
    right = []
    for example in tiny.examples_of(data):
        mask = read_mask(example.mask)
        logits = segmenter.logits(mini.preprocess(open_photo(example.photo))[None])
        found = F.interpolate(logits, size=mask.shape, mode="bilinear").argmax(dim=1)[0].numpy()
        right.append((found == mask)[mask != 255].mean())
    # Background everywhere would be right for half of the pixels.
    assert np.mean(right) > 0.62


def test_killed_and_resumed_it_ends_with_the_same_bits(tiny, data, mini, finished, tmp_path):
    """Killed after iteration 3, a checkpoint at 2: iteration 3 is done again."""
    killed = start(data, tmp_path, killed_at=3)
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert (
        read_checkpoint_metadata(tmp_path / "decoder.safetensors")["made_by"]["iterations_done"]
        == 2
    )
    tiny.train(data, tmp_path, model=mini)
    assert_same_weights(tmp_path, finished)
    ours, theirs = rows(tmp_path / "metrics.csv"), rows(finished / "metrics.csv")
    for row in (*ours, *theirs):
        del row["photos_per_second"]
    assert ours == theirs
    assert [row["iteration"] for row in ours] == ["2", "4", "6"]


def test_resumed_with_another_distance_between_rows_each_row_is_the_mean_since_the_last(
    tiny, data, mini, tmp_path
):
    """Stopped after iteration 4, a checkpoint at 3 and a row due at 4: 1 to 3 are summed up."""
    tiny.train(data, tmp_path / "each", model=mini, log_every=1)
    losses = [float(row["loss"]) for row in rows(tmp_path / "each" / "metrics.csv")]

    def stop(_segmenter):
        raise KeyboardInterrupt

    output = tmp_path / "out"
    options = {"model": mini, "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        tiny.train(data, output, log_every=5, validate=stop, validate_every=4, **options)
    tiny.train(data, output, log_every=2, **options)
    noted = {int(row["iteration"]): float(row["loss"]) for row in rows(output / "metrics.csv")}
    assert noted == pytest.approx({4: np.mean(losses[:4]), 6: np.mean(losses[4:])}, rel=1e-5)


def test_two_ranks_equal_one_and_accumulated_parts_are_the_same_photos(
    tiny, data, finished, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [start(data, tmp_path, RANK=str(rank), **meeting) for rank in range(2)]
    assert [process.wait(timeout=180) for process in ranks] == [0, 0]
    assert_same_weights(tmp_path, finished, atol=2e-5, rtol=1e-3)


def test_parts_of_a_batch_add_up_to_it(tiny, tmp_path, mini):
    """Without RSC, and with masks known everywhere, the mean of the parts is that of the whole."""
    data = tmp_path / "data"
    tiny.write_photos(data)
    for path in (data / "masks").iterdir():
        mask = read_mask(path)
        mask[mask == 255] = 0
        write_mask(path, mask)
    settings = {"lambda_rsc": 0.0, "ce": "plain", "scales": (2.0, 2.0), "iterations": 3}
    tiny.train(data, tmp_path / "whole", model=mini, settings=settings)
    tiny.train(data, tmp_path / "parts", model=mini, settings={**settings, "accumulation": 2})
    assert_same_weights(tmp_path / "parts", tmp_path / "whole", atol=2e-5, rtol=1e-3)


def test_no_tensor_of_the_encoder_changes(tiny, data, tmp_path):
    model = load_clip("mini", device="cpu")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    tiny.train(data, tmp_path, model=model, settings={"learning_rate": 1.0, "iterations": 2})
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module.training for module in model.module.modules())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_a_finished_training_is_returned_at_once(tiny, data, finished, mini):
    before = (finished / "state.pt").stat().st_mtime_ns
    segmenter = tiny.train(data, finished, model=mini, validate=lambda _: pytest.fail("trains"))
    assert (finished / "state.pt").stat().st_mtime_ns == before
    assert not segmenter.decoder.training
    pixels = torch.zeros(1, 3, 32, 32)
    expected = load_segmenter(finished / "decoder.safetensors", mini).logits(pixels)
    assert torch.equal(segmenter.logits(pixels), expected)


def test_the_global_random_numbers_play_no_part_and_are_left_alone(
    tiny, data, finished, mini, tmp_path
):
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = torch.random.get_rng_state()
    tiny.train(data, tmp_path, model=mini)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same_weights(tmp_path, finished)


def test_reading_in_other_processes_changes_nothing(tiny, data, finished, mini, tmp_path):
    tiny.train(data, tmp_path, model=mini, workers=2)
    assert_same_weights(tmp_path, finished)


def test_the_seed_and_rsc_matter(tiny, data, finished, mini, tmp_path):
    tiny.train(data, tmp_path / "seed", model=mini, settings={"seed": 1})
    assert differ(tmp_path / "seed", finished)
    tiny.train(data, tmp_path / "rsc", model=mini, settings={"lambda_rsc": 0.0})
    assert differ(tmp_path / "rsc", finished)


def test_validation_sees_the_decoder_in_eval_mode_and_ends_up_in_a_file(
    tiny, data, finished, mini, tmp_path
):
    modes = []

    def validate(segmenter):
        modes.append(segmenter.decoder.training)
        assert segmenter.logits(torch.zeros(1, 3, 32, 48)).shape == (1, 4, 2, 3)
        return {"miou": 0.25}

    tiny.train(data, tmp_path, model=mini, validate=validate, validate_every=4)
    noted = rows(tmp_path / "validation.csv")
    assert [(row["iteration"], row["miou"]) for row in noted] == [("4", "0.25"), ("6", "0.25")]
    assert modes == [False, False]
    assert_same_weights(tmp_path, finished)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_an_encoder_in_float16_and_a_decoder_in_half_precision(tiny, data, tmp_path, precision):
    model = load_clip("mini", device="cpu", dtype=torch.float16)
    segmenter = tiny.train(
        data, tmp_path, model=model, settings={"iterations": 2, "precision": precision}
    )
    assert segmenter.logits(torch.zeros(1, 3, 32, 32)).isfinite().all()
    assert all(value.dtype == torch.float32 for value in weights(tmp_path).values())


class Operators(TorchDispatchMode):
    """How often each of PyTorch's operators ran."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_between_rows_the_loop_does_not_wait_for_the_device(tiny, data, mini, tmp_path, precision):
    """On a GPU, reading a number and copying constants are what waits; the CPU does them too."""
    waits = {}
    for iterations in (2, 5):
        settings = {"iterations": iterations, "precision": precision}
        with Operators() as seen:
            tiny.train(
                data, tmp_path / str(iterations), model=mini, settings=settings,
                log_every=9, checkpoint_every=9,
            )  # fmt: skip
        waits[iterations] = (
            seen.counts[torch.ops.aten._local_scalar_dense.default],
            seen.counts[torch.ops.aten.lift_fresh.default],
        )
    read = waits[5][0] - waits[2][0]
    copied = waits[5][1] - waits[2][1]
    # What the loader made of NumPy's arrays: photo, mask and labels of four photos per iteration.
    assert (read, copied) == (0, 3 * 3 * 4)


def test_in_float16_a_first_step_that_overflows_is_skipped(tiny, mini):
    """It leaves weights and momentum as they are, and the next is that of plain SGD."""
    settings = TrainingSettings(precision="float16", width=32, layers=1, heads=4)
    decoders = [
        Decoder.for_model(mini, tiny.prototypes(), (0, 1), width=32, layers=1, heads=4)
        for _ in range(2)
    ]
    decoders[1].load_state_dict(decoders[0].state_dict())
    state = TrainingState(decoders[0], settings, torch.device("cpu"))
    before = {name: value.clone() for name, value in decoders[0].state_dict().items()}
    plain = torch.optim.SGD(
        decoders[1].parameters(), lr=0.01, momentum=0.9, weight_decay=settings.weight_decay
    )
    for gradient in (torch.inf, 1.0, 0.5):
        for parameter in decoders[0].parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        state.scaler.scale(torch.zeros(()))
        # As if they were the gradients of the scaled loss.
        for parameter in decoders[0].parameters():
            parameter.grad *= state.scaler.get_scale()
        state.scaler.unscale_(state.optimizer)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if gradient == torch.inf:
            after = decoders[0].state_dict()
            assert all(torch.equal(value, after[name]) for name, value in before.items())
            continue
        for parameter in decoders[1].parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        plain.step()
    for ours, theirs in zip(*(decoder.parameters() for decoder in decoders), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_loss_that_is_not_finite_stops_the_training(tiny, data, mini, tmp_path):
    settings = {"learning_rate": 1e30, "clip_norm": 1e30, "warmup": 0}
    with pytest.raises(FloatingPointError, match=r"lower learning_rate \(1e\+30\) or clip_norm"):
        tiny.train(data, tmp_path, model=mini, settings=settings)


def test_a_full_gpu_is_told_which_settings_need_less(tiny, data, mini, tmp_path, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vpl_plugin.segmentation.training.Decoder.forward", full)
    message = r"4 photo\(s\) of 64 pixels at once: raise accumulation \(1\) to as much as 4, or low"
    with pytest.raises(MemoryError, match=message):
        tiny.train(data, tmp_path, model=mini)


def refused(tiny, data, mini, output, error, message, settings=None, **options):
    """Refused before anything is written."""
    with pytest.raises(error, match=message):
        tiny.train(data, output, model=mini, settings=settings, **options)


def test_bad_input_is_refused_before_the_first_iteration(tiny, data, mini, tmp_path):
    output = tmp_path / "out"
    refused(tiny, data, mini, output, ValueError, "multiple of the model's patch size 16; got 40",
            {"crop": 40})  # fmt: skip
    refused(tiny, data, mini, output, ValueError, r"blocks must lie in \[-2, 1\]", {"blocks": (5,)})
    refused(tiny, data, mini, output, ValueError, "scales must be", {"scales": (1.0, 0.5)})
    refused(tiny, data, mini, output, ValueError, "log_every must be", log_every=0)
    assert not output.exists()


def test_masks_that_went_missing_since_they_were_listed_are_named(tiny, mini, tmp_path):
    data = tmp_path / "data"
    tiny.write_photos(data)
    examples = tiny.examples_of(data)
    (data / "masks" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 photos without a pseudo-mask: 3"):
        tiny.train_decoder(mini, examples, tiny.prototypes(), TrainingSettings(), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_prototypes_of_another_encoder_are_refused(tiny, data, mini, tmp_path):
    prototypes = Prototypes(torch.ones(5, 512), tiny.CLASSES)
    with pytest.raises(ValueError, match="model's D = 256; got D = 512"):
        tiny.train_decoder(
            mini, tiny.examples_of(data), prototypes, TrainingSettings(), tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


def test_the_folder_of_another_training_is_refused(tiny, data, finished, mini):
    with pytest.raises(ValueError, match=r"results of other settings \(settings was .*choose ano"):
        tiny.train(data, finished, model=mini, settings={"iterations": 7})


def test_a_broken_state_is_named(tiny, data, mini, tmp_path):
    tiny.train(data, tmp_path, model=mini, settings={"iterations": 2})
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"state\.pt is no readable state"):
        tiny.train(data, tmp_path, model=mini, settings={"iterations": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number, 1 or more; got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"lambda_rsc": -0.5}, "lambda_rsc must be a finite number, 0 or more"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"precision": "int8"}, "unknown precision 'int8'"),
        ({"batch_size": 5, "accumulation": 2}, "multiple of accumulation; got 5 and 2"),
        ({"heads": 7}, "multiple of heads; got 256 and 7"),
        ({"scales": ()}, "scales must be"),
        ({"ce": "focal"}, "unknown ce 'focal'; these exist: 'plain', 'balanced'"),
        ({"lambda_ce": 0.0, "lambda_rsc": 0.0}, "lambda_ce or lambda_rsc must be above 0"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**change)


def output_and_target(seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(4, 6, 3, 3, generator=generator)
    rows = torch.randn(5, 6, generator=generator)
    masks = torch.randint(4, (4, 12, 12), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.3] = 255
    labels = torch.rand(4, 3, generator=generator) < 0.5
    output = DecoderOutput(embeddings, class_maps(embeddings, rows, 3))
    return output, masks.to(torch.uint8), labels, rows


def test_the_loss_is_cross_entropy_where_something_is_known_and_the_contrast():
    """Eq. 14, each term by itself."""
    output, masks, labels, rows = output_and_target(0)
    terms = decoder_loss(
        *(output, masks, labels, rows),
        TrainingSettings(lambda_ce=2.0, lambda_rsc=0.5, ce="plain", **LITERAL),
    )
    maps = F.interpolate(output.logits, size=(12, 12), mode="bilinear")
    expected = F.cross_entropy(maps, masks.long(), ignore_index=255)
    torch.testing.assert_close(terms.ce, expected)
    # As "relu" masks each class by itself, background rows have no say.
    torch.testing.assert_close(terms.rsc, rsc_loss(output.embeddings, rows[:3], labels))
    torch.testing.assert_close(terms.total, 2 * terms.ce + 0.5 * terms.rsc)


def test_background_prototypes_take_their_pixels_under_softmax():
    output, masks, labels, rows = output_and_target(1)
    terms = decoder_loss(
        output,
        masks,
        labels,
        rows,
        TrainingSettings(**{**LITERAL, "activation": "softmax", "lambda_rsc": 1.0}),
    )
    similarity = region_similarity(output.embeddings, rows, "softmax")[:, :3]
    # The entries one by one, as Eq. 13 sums them.
    pairs = labels.nonzero().tolist()
    expected = 0.0
    for i, n in pairs:
        own = (similarity[i, n] / 0.07).exp()
        row = sum((similarity[i, k] / 0.07).exp() for _, k in pairs if not labels[i, k])
        column = sum((similarity[j, n] / 0.07).exp() for j, _ in pairs if not labels[j, n])
        expected -= (own / (own + row)).log() + (own / (own + column)).log()
    torch.testing.assert_close(terms.rsc, expected / (2 * len(pairs)))


def test_plain_cross_entropy_is_a_setting(tiny, data, mini, finished, tmp_path):
    output, masks, labels, rows = output_and_target(0)
    terms = decoder_loss(output, masks, labels, rows, TrainingSettings(mask_stride=1))
    maps = F.interpolate(output.logits, size=(12, 12), mode="bilinear")
    torch.testing.assert_close(terms.ce, balanced_cross_entropy(maps, masks))
    tiny.train(data, tmp_path, model=mini, settings={"ce": "plain"})
    assert differ(tmp_path, finished)
    made_by = read_checkpoint_metadata(tmp_path / "decoder.safetensors")["made_by"]
    assert made_by["settings"]["ce"] == "plain"


def test_the_padding_of_crops_has_no_part_in_the_contrast(tiny, data, mini):
    output, masks, labels, rows = output_and_target(0)
    inside = torch.ones(4, 3, 3, dtype=torch.bool)
    inside[:, 0] = False
    settings = TrainingSettings(lambda_rsc=1.0, activation="present")
    loss = decoder_loss(output, masks, labels, rows, settings, inside)
    padded = output._replace(embeddings=output.embeddings.clone())
    padded.embeddings[:, :, 0] = 7.0
    assert torch.equal(loss.rsc, decoder_loss(padded, masks, labels, rows, settings, inside).rsc)
    assert loss.rsc != decoder_loss(output, masks, labels, rows, settings).rsc
    # Twice as fine a decoder has the same padding.
    fine = output._replace(
        embeddings=output.embeddings.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    finer = decoder_loss(fine, masks, labels, rows, settings, inside)
    torch.testing.assert_close(finer.rsc, loss.rsc)


def test_by_default_photos_are_seen_at_many_scales_and_cached_at_their_own(
    tiny, data, mini, tmp_path
):
    settings = {"scales": None, "iterations": 1}
    tiny.train(data, tmp_path / "photos", model=mini, settings=settings)
    tiny.train(data, tmp_path / "cached", model=mini, settings=settings, cache=tmp_path / "cache")
    scales = [
        read_checkpoint_metadata(tmp_path / kind / "decoder.safetensors")["made_by"]["settings"]
        for kind in ("photos", "cached")
    ]
    assert [found["scales"] for found in scales] == [[0.5, 2.0], [1.0]]
    kept = {path.stem.split("_", 1)[1] for path in (tmp_path / "cache").glob("*.npy")}
    assert kept == {"1_plain", "1_mirrored"}


def test_a_stride_looks_at_part_of_the_pixels():
    output, masks, labels, rows = output_and_target(2)
    unseen = torch.ones_like(masks, dtype=torch.bool)
    unseen[:, 1::3, 1::3] = False
    changed = masks.masked_fill(unseen, 255)
    settings = TrainingSettings(mask_stride=3)
    first = decoder_loss(output, masks, labels, rows, settings)
    assert torch.equal(first.ce, decoder_loss(output, changed, labels, rows, settings).ce)
    assert first.ce != decoder_loss(output, masks, labels, rows, TrainingSettings(mask_stride=1)).ce


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_is_not_waited_for(tiny, data, cuda, tmp_path, monkeypatch, precision):
    """CUDA itself warns of what waits; the last row of the metrics may."""
    model = load_clip("mini", device=cuda)
    settings = {"precision": precision, "iterations": 6}
    genuine = TrainingState.check_finite

    def unwatched(state):
        torch.cuda.set_sync_debug_mode("default")
        genuine(state)

    monkeypatch.setattr(TrainingState, "check_finite", unwatched)
    part = training._part

    def watched(model, decoder, sample, *rest):
        # From the second iteration on: the first makes what is kept.
        terms = part(model, decoder, sample, *rest)
        torch.cuda.set_sync_debug_mode("error")
        return terms

    monkeypatch.setattr(training, "_part", watched)
    try:
        tiny.train(data, tmp_path, model=model, settings=settings, log_every=9, checkpoint_every=9)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_trains_on_a_gpu(tiny, data, cuda, tmp_path, precision):
    model = load_clip("mini", device=cuda)
    segmenter = tiny.train(data, tmp_path, model=model, settings={"precision": precision})
    assert segmenter.logits(torch.zeros(1, 3, 32, 32, device=cuda)).isfinite().all()
    metrics = rows(tmp_path / "metrics.csv")
    assert float(metrics[-1]["loss"]) < float(metrics[0]["loss"])
