"""Dense CRF (Krähenbühl and Koltun, 2011) on the permutohedral lattice, in torch operations."""

from vpl_plugin.localization.crf.clip_es_photo import clip_es_photo
from vpl_plugin.localization.crf.dense_crf import dense_crf, reference_backend
from vpl_plugin.localization.crf.mean_field import mean_field

__all__ = ["clip_es_photo", "dense_crf", "mean_field", "reference_backend"]
