"""CLIP models behind one interface: photos and texts to features, cut where GradCAM starts.

The second floor of the package: it knows files, photos and models, and nothing of CAMs.
"""

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames
from vpl_plugin.clip.features import Photo, dense_features, pixel_batches
from vpl_plugin.clip.load import load_clip
from vpl_plugin.clip.model import ClipModel, LastBlock, VisionTokens
from vpl_plugin.clip.preprocess import BrokenPhotoError, open_photo, preprocess
from vpl_plugin.clip.prompts import class_prototypes, text_prototypes
from vpl_plugin.clip.templates import CLIP_ES, ENSEMBLE, SINGLE
from vpl_plugin.clip.vision_tower import UnsupportedModelError

__all__ = [
    "CLIP_ES",
    "COCO",
    "ENSEMBLE",
    "SINGLE",
    "VOC",
    "BrokenPhotoError",
    "ClassNames",
    "ClipModel",
    "LastBlock",
    "Photo",
    "UnsupportedModelError",
    "VisionTokens",
    "class_prototypes",
    "dense_features",
    "load_clip",
    "open_photo",
    "pixel_batches",
    "preprocess",
    "text_prototypes",
]
