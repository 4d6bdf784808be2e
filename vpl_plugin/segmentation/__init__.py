"""Phase 2: a decoder on the frozen encoder, its training and its use (Eq. 12-14)."""

from vpl_plugin.segmentation.checkpoints import (
    Segmenter,
    load_segmenter,
    read_checkpoint_metadata,
    save_checkpoint,
)
from vpl_plugin.segmentation.decoder import Decoder, DecoderOutput, class_maps
from vpl_plugin.segmentation.examples import Example, list_examples
from vpl_plugin.segmentation.feature_cache import FeatureCache
from vpl_plugin.segmentation.settings import TrainingSettings, default_blocks
from vpl_plugin.segmentation.training import decoder_loss, train_decoder

__all__ = [
    "Decoder",
    "DecoderOutput",
    "Example",
    "FeatureCache",
    "Segmenter",
    "TrainingSettings",
    "class_maps",
    "decoder_loss",
    "default_blocks",
    "list_examples",
    "load_segmenter",
    "read_checkpoint_metadata",
    "save_checkpoint",
    "train_decoder",
]
