"""The CLIP-ES pipeline (Lin et al., CVPR 2023) with text or vision prototypes."""

from vpl_plugin.adapters.clip_es.cams import PhotoCAMs, photo_cams
from vpl_plugin.adapters.clip_es.encoding import EncodedPhoto, encode_photo

__all__ = ["EncodedPhoto", "PhotoCAMs", "encode_photo", "photo_cams"]
