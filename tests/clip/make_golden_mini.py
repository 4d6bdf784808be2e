"""Write golden_mini.npz: outputs of the model's original module, for tests anywhere.

Run from the checkout where the development data folder lies beside it:
``python tests/clip/make_golden_mini.py ../shared/mini_clip``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch

SIDES = (48, 64)
TEXTS = ("a clean origami cat.", "a photo of a person with clothes,people,human.", "sky")


def procedural_photo(height: int, width: int) -> np.ndarray:
    """A colour gradient with a disc and seeded noise, (H, W, 3) uint8."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 4) ** 2
    photo = np.stack([rows * 255 / height, columns * 255 / width, 200 - 150 * disc], axis=-1)
    noise = np.random.default_rng(0).integers(-20, 21, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8)


def main(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("reference", folder / "reference_model.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    model = reference.load(folder / "mini_clip.pt")
    visual = model.visual
    mean, std = torch.tensor([reference.CLIP_MEAN, reference.CLIP_STD])
    photo = procedural_photo(*SIDES)
    pixels = ((torch.from_numpy(photo).float() / 255 - mean) / std).permute(2, 0, 1)
    with torch.no_grad():
        stem = visual.conv1(pixels[None])
        first, last = visual.transformer.resblocks
        tokens, first_attention = first(visual.embed(stem), need_weights=True)
        activations = last.ln_1(tokens)
        output, last_attention = last(tokens, need_weights=True)
        projected = visual.tokens(output)[:, 1:]

        positions = visual.pos
        visual.pos = lambda h, w: positions(h, w).half()
        rounded, _ = first(visual.embed(stem))
        texts = model.encode_text(open_clip.tokenize(list(TEXTS)))
    np.savez_compressed(
        Path(__file__).with_name("golden_mini.npz"),
        photo=photo,
        stem=stem[0].numpy(),
        tokens=tokens[:, 0].numpy(),
        tokens_rounded_positions=rounded[:, 0].numpy(),
        first_attention=first_attention[0].numpy(),
        activations=activations[:, 0].numpy(),
        output=output[:, 0].numpy(),
        last_attention=last_attention[0].numpy(),
        projected=projected[0].numpy(),
        texts=np.array(TEXTS),
        text_embeddings=torch.nn.functional.normalize(texts, dim=-1).numpy(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
