"""Files of weights with broken bytes: each loads, or ends in one of load_clip's documented errors.

    python tests/clip/fuzz_weights.py --inputs 5000

Files as safetensors, ``torch.save`` and Hugging Face's ``save_pretrained`` write them are cut off,
get bits flipped, bytes overwritten, doubled or cut out in their headers and pickles, or are garbage
from the start. Input number ``i`` depends on the seed and ``i`` alone, and can be run again by it:

    python tests/clip/fuzz_weights.py --first 1234 --inputs 1
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from vpl_plugin.clip import load_clip

# What load_clip documents, beside ImportError, which files cannot bring about.
DOCUMENTED = (FileNotFoundError, ValueError)
MAGIC = (b"PK\x03\x04", b"\x80\x02}q\x00", b"\x40\0\0\0\0\0\0\0{", b"{", b"<html>", b"version ")


class Sample(NamedTuple):
    """A whole file, and where the bytes that describe its tensors lie."""

    name: str
    content: bytes
    headers: tuple[range, ...]
    config: bytes | None = None


def tiny_weights() -> dict[str, torch.Tensor]:
    """The smallest CLIP with OpenAI's parameter names, with 16 tokens and one block a tower."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=4,
            vision_cfg={
                **{"layers": 1, "width": 8, "head_width": 8, "patch_size": 4, "image_size": 8},
                "mlp_ratio": 1.0,
            },
            text_cfg={
                **{"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
                "mlp_ratio": 1.0,
            },
        )
    return model.state_dict()


def hf_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same under Hugging Face's names, as far as a fuzz needs it."""
    renamed = {}
    for name, value in weights.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        bare = name.removeprefix("visual.")
        if "in_proj" in bare:
            stem = bare.replace("transformer.resblocks", "encoder.layers").split(".attn")[0]
            for which, third in zip("qkv", value.chunk(3), strict=True):
                kind = bare.rpartition("_")[2]
                renamed[f"{tower}.{stem}.self_attn.{which}_proj.{kind}"] = third.contiguous()
        else:
            for old, new in HF_PARTS.items():
                bare = bare.replace(old, new)
            renamed[f"{tower}.{bare}"] = value
    for name, other, own in (
        ("vision_model.proj", "visual_projection.weight", True),
        ("text_model.text_projection", "text_projection.weight", True),
        ("text_model.logit_scale", "logit_scale", False),
    ):
        value = renamed.pop(name)
        renamed[other] = value.T.contiguous() if own else value
    return renamed


HF_PARTS = {
    "transformer.resblocks": "encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "c_fc": "fc1",
    "c_proj": "fc2",
    "class_embedding": "embeddings.class_embedding",
    "conv1": "embeddings.patch_embedding",
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_final": "final_layer_norm",
}
HF_CONFIG = {
    "model_type": "clip",
    "text_config": {"num_attention_heads": 2, "hidden_act": "quick_gelu", "eos_token_id": 15},
    "vision_config": {"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
}


def samples() -> list[Sample]:
    """Whole files, all of which load."""
    weights = tiny_weights()
    hf = hf_names(weights)
    named = {f"module.{name}": value.half() for name, value in weights.items()}
    config = json.dumps(HF_CONFIG).encode()
    files = [
        _safetensors("clip.safetensors", weights),
        _torch("clip.pt", weights),
        _torch("checkpoint.ckpt", {"state_dict": named, "epoch": 3}),
        _torch("legacy.pth", weights, _use_new_zipfile_serialization=False),
        _safetensors("model.safetensors", hf)._replace(config=config),
        _torch("pytorch_model.bin", hf)._replace(config=config),
    ]
    return [file._replace(name=f"{index}-{file.name}") for index, file in enumerate(files)]


def _safetensors(name: str, weights: dict[str, torch.Tensor]) -> Sample:
    content = save(weights)
    return Sample(name, content, (range(8 + int.from_bytes(content[:8], "little")),))


def _torch(name: str, content: object, **options: bool) -> Sample:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    data = buffer.getvalue()
    # The pickle lies at the start, and a zip archive's list of members at the end.
    pickle, members = range(min(len(data), 6000)), data.find(b"PK\x01\x02")
    return Sample(name, data, (pickle, range(members, len(data))) if members > 0 else (pickle,))


def broken(data: bytes, headers: tuple[range, ...], rng: np.random.Generator) -> bytes:
    """The file damaged in one of the ways of the module's docstring."""
    how = int(rng.integers(8))
    if how == 0:
        return data[: int(rng.integers(len(data)))]
    if how == 1:
        start = MAGIC[int(rng.integers(len(MAGIC)))] if rng.random() < 0.5 else b""
        return start + rng.bytes(int(rng.integers(1, 2000)))
    changed = bytearray(data)
    header = headers[int(rng.integers(len(headers)))]
    for _ in range(int(rng.integers(1, 6))):
        # Mostly where tensors are described; what lies in their numbers is no header.
        anywhere = rng.random() < 0.1
        at = int(rng.integers(len(changed)) if anywhere else rng.integers(header[0], header[-1]))
        at = min(at, len(changed) - 1)
        length = int(rng.integers(1, 9))
        if how in (2, 3):
            changed[at] ^= 1 << int(rng.integers(8))
        elif how == 4:
            changed[at : at + length] = rng.bytes(length)
        elif how == 5:
            changed[at : at + length] = b""
        elif how == 6:
            changed[at:at] = changed[at : at + length]
        else:
            _change_a_digit(changed, at, rng)
        if not changed:
            break
    return bytes(changed)


def _change_a_digit(data: bytearray, start: int, rng: np.random.Generator) -> None:
    """Another number in a JSON header: shapes, offsets, lengths; a bit where there is no digit."""
    for at in range(start, min(start + 40, len(data))):
        if chr(data[at]).isdigit():
            data[at : at + 1] = str(int(rng.integers(10 ** int(rng.integers(1, 19))))).encode()
            return
    data[start] ^= 1 << int(rng.integers(8))


def inputs(first: int, count: int, seed: int) -> Iterator[tuple[int, Sample]]:
    """Input number ``first`` and those after it, each with its damage done."""
    whole = samples()
    for index in range(first, first + count):
        rng = np.random.default_rng([seed, index])
        sample = whole[index % len(whole)]
        if sample.config is not None and rng.random() < 0.4:
            config = broken(sample.config, (range(len(sample.config)),), rng)
            yield index, sample._replace(config=config)
        else:
            yield index, sample._replace(content=broken(sample.content, sample.headers, rng))


def tokenizer(texts: list[str]) -> torch.Tensor:
    """Any ids: the tiny models have not CLIP's vocabulary."""
    return torch.ones(len(texts), 4, dtype=torch.long)


def fuzz(
    first: int,
    count: int,
    seed: int,
    folder: Path,
    load: Callable[..., object] = load_clip,
) -> tuple[collections.Counter[str], list[str]]:
    """Loads the inputs one after the other.

    Returns:
        How many ended how, and the errors that are not documented, or not in one line.
    """
    ends: collections.Counter[str] = collections.Counter()
    escaped = []
    for index, sample in inputs(first, count, seed):
        of_sample = folder / sample.name.partition("-")[0]
        of_sample.mkdir(exist_ok=True)
        path = of_sample / sample.name
        path.write_bytes(sample.content)
        if sample.config is not None:
            (of_sample / "config.json").write_bytes(sample.config)
        try:
            load(path, device="cpu", tokenizer=tokenizer)
        except DOCUMENTED as error:
            ends[next(kind.__name__ for kind in DOCUMENTED if isinstance(error, kind))] += 1
            message = str(error)
            if "\n" in message or not message or str(of_sample) not in message:
                escaped.append(f"input {index} ({sample.name}): message {message!r}")
        # The point of it: whatever else there is.
        except BaseException as error:
            escaped.append(f"input {index} ({sample.name}): {type(error).__name__}: {error}")
        else:
            ends["loaded"] += 1
    return ends, escaped


def main() -> int:
    """Runs the fuzz; the exit code is 1 where something escaped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=5000, help="how many (default: 5000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    samples()  # open_clip and what it imports are loaded by now, outside the time
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ends, escaped = fuzz(arguments.first, arguments.inputs, arguments.seed, Path(folder))
    took = time.perf_counter() - started
    shown = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    print(f"{arguments.inputs} inputs in {took:.0f} s, seed {arguments.seed}: {shown}")
    for line in escaped:
        print(line)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
