"""The CLIP-ES pipeline (Lin et al., CVPR 2023) with text or vision prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpl_plugin.lazy import lazy_names

if TYPE_CHECKING:
    from vpl_plugin.adapters.clip_es.cams import PhotoCAMs, batch_cams, photo_cams
    from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto, encode_photo
    from vpl_plugin.adapters.clip_es.learning import learn_from_photos, seed_pixels
    from vpl_plugin.adapters.clip_es.scores import SeedScores, mask_on_grid, seed_scores
    from vpl_plugin.adapters.clip_es.settings import DEFAULT_ANCHOR

__all__ = [
    "DEFAULT_ANCHOR",
    "EncodedPhoto",
    "PhotoCAMs",
    "SeedScores",
    "batch_cams",
    "encode_photo",
    "learn_from_photos",
    "mask_on_grid",
    "photo_cams",
    "seed_pixels",
    "seed_scores",
]

# Loaded when first used: a command's --help does not wait for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DEFAULT_ANCHOR": "settings",
        "EncodedPhoto": "encoding",
        "PhotoCAMs": "cams",
        "SeedScores": "scores",
        "batch_cams": "cams",
        "encode_photo": "encoding",
        "learn_from_photos": "learning",
        "mask_on_grid": "scores",
        "photo_cams": "cams",
        "seed_pixels": "learning",
        "seed_scores": "scores",
    },
)
