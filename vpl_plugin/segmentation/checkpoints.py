"""A trained decoder on disk, and decoder and encoder put together again.

One safetensors file: weights and prototypes as tensors, all that is needed to rebuild the decoder
as JSON in the file's header. Nothing in it is code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.checks import check_blocks
from vpl_plugin.clip import ClipModel
from vpl_plugin.errors import InputError
from vpl_plugin.segmentation.decoder import Decoder, DecoderOutput

__all__ = ["Segmenter", "load_segmenter", "read_checkpoint_metadata", "save_checkpoint"]

FORMAT = "vpl-decoder-1"


class Segmenter(NamedTuple):
    """A frozen encoder with a decoder trained on it: photos to maps, without image labels.

    Attributes:
        model: the encoder.
        decoder: in eval mode.
        blocks: whose tokens the decoder reads, counted from the first.
        classes: the F foreground names, in the order of channels 1 to F.
    """

    model: ClipModel
    decoder: Decoder
    blocks: tuple[int, ...]
    classes: tuple[str, ...]

    @torch.no_grad()
    def output(self, pixels: Tensor) -> DecoderOutput:
        """Embeddings and maps of normalised photos (B, 3, H, W), on the decoder's grid."""
        grid = (pixels.shape[2] // self.model.patch_size, pixels.shape[3] // self.model.patch_size)
        return self.decoder(self.model.block_tokens(pixels, self.blocks), grid)

    def logits(self, pixels: Tensor) -> Tensor:
        """The maps before softmax of normalised photos.

        Args:
            pixels: (B, 3, H, W), as :meth:`ClipModel.preprocess` gives them; H and W are multiples
                of the patch size.

        Returns:
            (B, 1 + F, h', w') float32, channel 0 the background; h' = H / patch_size * upsampling.

        Raises:
            TypeError, InputError: as :meth:`ClipModel.block_tokens`.
        """
        return self.output(pixels).logits


def save_checkpoint(
    path: str | os.PathLike[str],
    decoder: Decoder,
    *,
    model: ClipModel,
    blocks: Sequence[int],
    classes: Sequence[str],
    made_by: Mapping[str, Any],
) -> None:
    """Write a trained decoder, whole or not at all.

    Args:
        path: ends in .safetensors; its folder must exist.
        decoder: with its prototypes.
        model: the encoder it was trained on; only its name and shape are noted.
        blocks: whose tokens the decoder reads.
        classes: the F foreground names.
        made_by: anything JSON can hold: settings of the training, data, iterations.

    Raises:
        InputError: the path does not end in .safetensors, or there are not F names.
        OSError: the file cannot be written; what stood there before is kept.
    """
    from safetensors.torch import save

    path = _checked(path)
    if len(classes) != decoder.num_foreground:
        raise InputError(
            f"classes must name the decoder's {decoder.num_foreground} foreground classes;"
            f" got {len(classes)}"
        )
    about = {
        "format": FORMAT,
        "encoder": _encoder(model),
        "blocks": check_blocks(blocks, model.depth),
        "classes": list(classes),
        "decoder": decoder.settings,
        "made_by": dict(made_by),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in decoder.state_dict().items()}
    with whole_file(path) as part:
        # Not save_file: it gives a full disk an error of its own, and the file to its owner alone.
        part.write_bytes(save(tensors, {"vpl": json.dumps(about)}))


def read_checkpoint_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is noted in a trained decoder's file, without its weights.

    Returns:
        "encoder" (name, patch_size, embed_dim, token_width, depth), "blocks", "classes", "decoder"
        (its settings) and "made_by".

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is broken, or no decoder of this package.
    """
    from safetensors import SafetensorError, safe_open

    path = _checked(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no trained decoder at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    about = json.loads(noted.get("vpl", "{}"))
    if about.get("format") != FORMAT:
        raise InputError(
            f"{path} must be a trained decoder of the format {FORMAT!r};"
            f" it notes {about.get('format')!r}"
        )
    return about


def load_segmenter(path: str | os.PathLike[str], model: ClipModel) -> Segmenter:
    """A trained decoder put on its encoder.

    Args:
        path: what :func:`save_checkpoint` wrote.
        model: the encoder that the decoder was trained on; the decoder goes to its device.

    Returns:
        Encoder and decoder, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is broken, or the decoder was trained on another encoder, or on other
            weights of it.
    """
    from safetensors.torch import load_file

    about = read_checkpoint_metadata(path)
    encoder = _encoder(model)
    differing = [key for key in encoder if encoder[key] != about["encoder"].get(key)]
    if differing:
        shown = ", ".join(
            f"{key} was {about['encoder'].get(key)!r}, is {encoder[key]!r}" for key in differing
        )
        raise InputError(f"{path} was trained on another encoder ({shown}): load that one")
    _check_weights(about, model)
    tensors = load_file(path)
    try:
        # Its random start, overwritten at once, must not move the caller's random numbers on.
        with torch.random.fork_rng(devices=[]):
            decoder = Decoder(tensors["prototypes"], **about["decoder"])
        decoder.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold the weights that its header names: {error}"
        ) from error
    decoder = decoder.to(model.device).eval().requires_grad_(False)
    return Segmenter(model, decoder, tuple(about["blocks"]), tuple(about["classes"]))


def _encoder(model: ClipModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "patch_size": model.patch_size,
        "embed_dim": model.embed_dim,
        "token_width": model.token_width,
        "depth": model.depth,
    }


def _check_weights(about: dict[str, Any], model: ClipModel) -> None:
    """A name alone would let an encoder of other weights through, or of another activation."""
    noted, own = about["made_by"].get("encoder", {}), model.fingerprint()
    if noted.get("weights", own["weights"]) != own["weights"]:
        raise InputError(
            f"the decoder was trained on other weights than these of {model.name!r}: say which"
            " with --model and --pretrained"
        )
    if noted.get("activation", own["activation"]) != own["activation"]:
        raise InputError(
            f"the decoder was trained with {noted['activation']} in the encoder; this one of"
            f" {model.name!r} has {own['activation']}: say which with --quick-gelu or"
            " --no-quick-gelu"
        )


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path must end in .safetensors; got {str(path)!r}")
    return path
