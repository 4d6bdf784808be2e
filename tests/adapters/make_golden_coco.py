"""Write golden_coco.npz: what upstream CLIP-ES's COCO script gives on the demo's photographs.

``python tests/adapters/make_golden_coco.py CLIP-ES`` runs the checkout's own, unmodified
generate_cams_coco14.py with the embedded model and its text prototypes. The file holds, for each
photo, upstream's keys, its CAMs at every eighth pixel, and the label map at background power 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from vpl_plugin.adapters.clip_es.upstream import retrofit
from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams
from vpl_plugin.clip import COCO, load_clip, text_prototypes
from vpl_plugin.prototypes import Prototypes

STRIDE = 8


def main(checkout: Path) -> None:
    # Beside this script: importable when it is run, and not when pytest collects it.
    from test_coco_parity import write_photos

    model = load_clip("mini", device="cpu")
    Z = text_prototypes(model, [*COCO.prompts, *COCO.background])
    golden = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, labels = write_photos(folder)
        Prototypes(Z, COCO.labels).save(folder / "text.safetensors")
        done = retrofit(
            checkout,
            dataset="coco14",
            model="mini",
            img_root=photos,
            split_file=labels,
            cam_out_dir=folder / "coco",
            prototypes=folder / "text.safetensors",
        )
        for photo in sorted(photos.glob("*.jpg")):
            keys, cams = read_upstream_cams(done.cam_out_dir / f"{photo.stem}.npy")
            scores = np.concatenate([1 - cams.max(axis=0, keepdims=True), cams])
            golden[f"{photo.stem}/keys"] = keys
            golden[f"{photo.stem}/cams"] = cams[:, ::STRIDE, ::STRIDE]
            best = np.array([0, *(keys + 1)])[scores.argmax(axis=0)]
            golden[f"{photo.stem}/label"] = best.astype(np.uint8)
    np.savez_compressed(Path(__file__).with_name("golden_coco.npz"), **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
