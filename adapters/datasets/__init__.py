"""Photos and their image-level labels, as data sets lay them out on disk.

A data set is one file here, or in a package of the user's own; see :class:`DataSet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpl_plugin.adapters.photos.data_set import DATASETS, DataSet
from vpl_plugin.lazy import lazy_names

if TYPE_CHECKING:
    from vpl_plugin.adapters.datasets.coco import coco_photos
    from vpl_plugin.adapters.datasets.folder import folder_photos
    from vpl_plugin.adapters.datasets.voc import voc_photos
    from vpl_plugin.adapters.photos.photo_set import PhotoSet, SetPhoto

__all__ = [
    "DATASETS",
    "DataSet",
    "PhotoSet",
    "SetPhoto",
    "coco_photos",
    "folder_photos",
    "voc_photos",
]

# Loaded when first used: a command's --help does not wait for torch.
__getattr__, __dir__ = lazy_names(
    "vpl_plugin.adapters",
    {
        "PhotoSet": "photos.photo_set",
        "SetPhoto": "photos.photo_set",
        "coco_photos": "datasets.coco",
        "folder_photos": "datasets.folder",
        "voc_photos": "datasets.voc",
    },
)
