"""Photos and their image-level labels, as data sets lay them out on disk."""

from vpl_plugin.adapters.datasets.coco import coco_photos
from vpl_plugin.adapters.datasets.folder import folder_photos
from vpl_plugin.adapters.datasets.photo_set import PhotoSet, SetPhoto
from vpl_plugin.adapters.datasets.voc import voc_photos

__all__ = ["PhotoSet", "SetPhoto", "coco_photos", "folder_photos", "voc_photos"]
