"""What is known of CLIP-ES's two CAM scripts, and of their flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vpl_plugin.clip.class_names import COCO, VOC, ClassNames
from vpl_plugin.errors import InputError

__all__ = ["SCRIPTS", "UpstreamFlags", "UpstreamScript", "read_flags"]


class UpstreamScript(NamedTuple):
    """What is known of one of upstream's two CAM scripts.

    Attributes:
        module: its name, without .py.
        class_names: the list of class names that become text features, in the script.
        background_names: the same of the background.
        perform: the arguments of its ``perform``.
        labels_in_split: the split file names the classes of each photo; else VOC's annotations do.
        split_file: upstream's default.
        names: the classes, under the data set's own labels.
    """

    module: str
    class_names: str
    background_names: str
    perform: tuple[str, ...]
    labels_in_split: bool
    split_file: str
    names: ClassNames


_PERFORM = (
    *("process_id", "dataset_list", "args", "model"),
    *("bg_text_features", "fg_text_features", "cam"),
)
SCRIPTS = {
    "voc12": UpstreamScript(
        "generate_cams_voc12",
        "new_class_names",
        "BACKGROUND_CATEGORY",
        _PERFORM,
        False,
        "voc12/train.txt",
        VOC,
    ),
    "coco14": UpstreamScript(
        "generate_cams_coco14",
        "new_class_names_coco",
        "BACKGROUND_CATEGORY_COCO",
        (*_PERFORM, "split_label_list"),
        True,
        "coco14/train.txt",
        COCO,
    ),
}


class UpstreamFlags(NamedTuple):
    """Upstream's own flags.

    Attributes:
        img_root: folder of photos.
        split_file: which photos.
        model: what upstream's ``clip.load`` takes, or "mini".
        num_workers: processes.
    """

    img_root: Path
    split_file: Path
    model: str
    num_workers: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"CLIP-ES's flags: {message}")


def read_flags(flags: Sequence[str], script: UpstreamScript, root: Path) -> UpstreamFlags:
    """What flags of upstream's say.

    Args:
        flags: as words.
        script: which of upstream's scripts is to take them.
        root: the checkout.

    Raises:
        FileNotFoundError: the model is a file that is not there.
        ValueError: a flag is missing, unknown, or no number where it must be one.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--img_root", type=Path, required=True)
    parser.add_argument("--split_file", type=Path, default=root / script.split_file)
    parser.add_argument("--model", required=True)
    parser.add_argument("--num_workers", type=int, default=1)
    found = parser.parse_args(flags)
    model = found.model
    if Path(model).is_file():
        model = str(Path(model).resolve())
    elif Path(model).suffix:
        raise FileNotFoundError(f"there is no model file {model}")
    return UpstreamFlags(found.img_root, found.split_file, model, found.num_workers)
