"""The classes of PASCAL VOC and COCO, and what CLIP-ES sets for each data set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vpl_plugin.checks import check_fraction, check_names, check_templates
from vpl_plugin.clip.templates import CLIP_ES
from vpl_plugin.errors import InputError

__all__ = ["COCO", "VOC", "ClassNames"]


@dataclass(frozen=True)
class ClassNames:
    """A data set's classes, what CLIP is given for them, and what CLIP-ES sets for them.

    Attributes:
        name: of the data set.
        labels: the N classes as the data set's annotations name them, in its order.
        prompts: for each class what goes into the prompt templates: a string, or synonyms.
        background: names of what may surround the classes; each gets a prototype of its own.
        templates: texts with ``{}`` where a class's prompt or a background name goes.
        box_threshold: share of a CAM's maximum above which the attention affinity draws boxes
            around its regions, in [0, 1]. CLIP-ES takes 0.4 for VOC and 0.7 for COCO.

    Raises:
        InputError: no labels, a label twice, as many prompts as labels is not the case, a prompt
            or background name is blank, a template has no ``{}``, or a box_threshold outside
            [0, 1].

    Example:
        >>> pets = ClassNames("pets", ("cat", "dog"), ("cat", "dog,puppy"), ("grass", "floor"))
        >>> pets.indices(["dog"])
        [1]
        >>> VOC.prompts[VOC.indices(["person"])[0]]
        'person with clothes,people,human'
    """

    name: str
    labels: tuple[str, ...]
    prompts: tuple[str | tuple[str, ...], ...]
    background: tuple[str, ...]
    templates: tuple[str, ...] = CLIP_ES
    box_threshold: float = 0.4

    def __post_init__(self) -> None:
        if not self.labels:
            raise InputError(f"labels of {self.name!r} must hold at least one class")
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise InputError(f"labels of {self.name!r} name {', '.join(twice)} more than once")
        if len(self.prompts) != len(self.labels):
            raise InputError(
                f"prompts of {self.name!r} must be as many as the {len(self.labels)} labels, got "
                f"{len(self.prompts)}"
            )
        check_fraction("box_threshold", self.box_threshold)
        check_names(f"prompts of {self.name!r}: prompts", self.prompts)
        if self.background:
            check_names(f"background of {self.name!r}: background", self.background)
        check_templates(self.templates)

    def texts(self) -> dict[str, Any]:
        """All that CLIP is given, as JSON can hold it, and as commands read it from a file.

        Example:
            >>> pets = ClassNames("pets", ("cat", "dog"), ("cat", ("dog", "puppy")), ("grass",))
            >>> pets.texts()["prompts"]
            {'cat': 'cat', 'dog': ['dog', 'puppy']}
        """
        prompts = (text if isinstance(text, str) else list(text) for text in self.prompts)
        return {
            "prompts": dict(zip(self.labels, prompts, strict=True)),
            "background": list(self.background),
            "templates": list(self.templates),
        }

    def indices(self, labels: Iterable[str]) -> list[int]:
        """The class index of each label, in the order given.

        Raises:
            TypeError: ``labels`` is one string.
            InputError: a label the data set does not know; the message names close ones.

        Example:
            >>> VOC.indices(["cat", "aeroplane"])
            [7, 0]
        """
        if isinstance(labels, str):
            raise TypeError(f"labels must be a sequence of labels, got the one string {labels!r}")
        position = {label: index for index, label in enumerate(self.labels)}
        found = []
        for label in labels:
            if label not in position:
                folded = str(label).casefold()
                close = [other for other in self.labels if other.casefold() == folded]
                close = close or difflib.get_close_matches(str(label), self.labels, n=3)
                hint = f"did you mean {' or '.join(close)}?" if close else ", ".join(self.labels)
                raise InputError(f"{self.name} has no class {label!r}: {hint}")
            found.append(position[label])
        return found


_BACKGROUND = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
    *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean"),
    *("road", "rock", "street", "valley", "bridge", "sign"),
)

_VOC_PROMPTS = {
    "aeroplane": "aeroplane",
    "bicycle": "bicycle",
    "bird": "bird avian",
    "boat": "boat",
    "bottle": "bottle",
    "bus": "bus",
    "car": "car",
    "cat": "cat",
    "chair": "chair seat",
    "cow": "cow",
    "diningtable": "diningtable",
    "dog": "dog",
    "horse": "horse",
    "motorbike": "motorbike",
    "person": "person with clothes,people,human",
    "pottedplant": "pottedplant",
    "sheep": "sheep",
    "sofa": "sofa",
    "train": "train",
    "tvmonitor": "tvmonitor screen",
}

VOC = ClassNames("PASCAL VOC", tuple(_VOC_PROMPTS), tuple(_VOC_PROMPTS.values()), _BACKGROUND)
"""The 20 classes of PASCAL VOC, with CLIP-ES's prompts and its 25 background names."""

# Labels are COCO's own; where CLIP-ES gives CLIP something else, it stands beside.
_COCO_PROMPTS = {
    "person": "person with clothes,people,human",
    "bicycle": "bicycle",
    "car": "car",
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "bus": "bus",
    "train": "train",
    "truck": "truck",
    "boat": "boat",
    "traffic light": "traffic light",
    "fire hydrant": "fire hydrant",
    "stop sign": "stop sign",
    "parking meter": "parking meter",
    "bench": "bench",
    "bird": "bird avian",
    "cat": "cat",
    "dog": "dog",
    "horse": "horse",
    "sheep": "sheep",
    "cow": "cow",
    "elephant": "elephant",
    "bear": "bear",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack,bag",
    "umbrella": "umbrella,parasol",
    "handbag": "handbag,purse",
    "tie": "necktie",
    "suitcase": "suitcase",
    "frisbee": "frisbee",
    "skis": "skis",
    # Misspelt in CLIP-ES, and kept: its published figures were made with it.
    "snowboard": "sknowboard",
    "sports ball": "sports ball",
    "kite": "kite",
    "baseball bat": "baseball bat",
    "baseball glove": "glove",
    "skateboard": "skateboard",
    "surfboard": "surfboard",
    "tennis racket": "tennis racket",
    "bottle": "bottle",
    "wine glass": "wine glass",
    "cup": "cup",
    "fork": "fork",
    "knife": "knife",
    "spoon": "dessertspoon",
    "bowl": "bowl",
    "banana": "banana",
    "apple": "apple",
    "sandwich": "sandwich",
    "orange": "orange",
    "broccoli": "broccoli",
    "carrot": "carrot",
    "hot dog": "hot dog",
    "pizza": "pizza",
    "donut": "donut",
    "cake": "cake",
    "chair": "chair seat",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "bed": "bed",
    "dining table": "diningtable",
    "toilet": "toilet",
    "tv": "tvmonitor screen",
    "laptop": "laptop",
    "mouse": "mouse",
    "remote": "remote control",
    "keyboard": "keyboard",
    "cell phone": "cell phone",
    "microwave": "microwave",
    "oven": "oven",
    "toaster": "toaster",
    "sink": "sink",
    "refrigerator": "refrigerator",
    "book": "book",
    "clock": "clock",
    "vase": "vase",
    "scissors": "scissors",
    "teddy bear": "teddy bear",
    "hair drier": "hairdrier,blowdrier",
    "toothbrush": "toothbrush",
}

COCO = ClassNames(
    "COCO",
    tuple(_COCO_PROMPTS),
    tuple(_COCO_PROMPTS.values()),
    # A keyboard is a class of COCO, and signs belong to some.
    tuple(name for name in _BACKGROUND if name not in ("keyboard", "sign")),
    box_threshold=0.7,
)
"""The 80 classes of COCO, with CLIP-ES's prompts, 23 background names and box threshold."""
