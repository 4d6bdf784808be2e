"""The CLIP-ES pipeline (Lin et al., CVPR 2023) with text or vision prototypes."""

from vpl_plugin.adapters.clip_es.cams import PhotoCAMs, batch_cams, photo_cams
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto, encode_photo
from vpl_plugin.adapters.clip_es.learning import DEFAULT_ANCHOR, learn_from_photos, seed_pixels
from vpl_plugin.adapters.clip_es.scores import SeedScores, mask_on_grid, seed_scores

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
