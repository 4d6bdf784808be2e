"""Class names, CLIP-ES's prompts for them, and labels that a data set does not know."""

from __future__ import annotations

import dataclasses

import pytest

from vpl_plugin.clip import COCO, VOC, ClassNames


def test_the_data_sets_are_whole():
    assert (len(VOC.labels), len(VOC.background)) == (20, 25)
    assert (len(COCO.labels), len(COCO.background)) == (80, 23)
    assert list(VOC.labels) == sorted(VOC.labels)
    # COCO's order is by category id; spot checks at the ids 1, 37, 62 and 90.
    assert [COCO.labels[index] for index in (0, 32, 56, 79)] == [
        "person",
        "sports ball",
        "chair",
        "toothbrush",
    ]


def test_prompts_that_clip_es_changed():
    changed = {
        label: prompt
        for label, prompt in zip(VOC.labels, VOC.prompts, strict=True)
        if label != prompt
    }
    assert changed == {
        "bird": "bird avian",
        "chair": "chair seat",
        "person": "person with clothes,people,human",
        "tvmonitor": "tvmonitor screen",
    }
    assert COCO.prompts[COCO.indices(["snowboard"])[0]] == "sknowboard"
    assert set(VOC.background) - set(COCO.background) == {"keyboard", "sign"}


def test_indices_keep_the_order_asked_for():
    assert VOC.indices(["tvmonitor", "aeroplane", "tvmonitor"]) == [19, 0, 19]
    assert VOC.indices(VOC.labels) == list(range(20))
    assert VOC.indices([]) == []


def test_unknown_labels_are_refused_with_close_ones():
    with pytest.raises(
        ValueError, match=r"PASCAL VOC has no class 'airplane': did you mean aeroplane\?"
    ):
        VOC.indices(["cat", "airplane"])
    with pytest.raises(ValueError, match="no class 'xyz': aeroplane, bicycle"):
        VOC.indices(["xyz"])
    with pytest.raises(TypeError, match="one string 'cat'"):
        VOC.indices("cat")


def test_class_names_are_checked_and_frozen():
    with pytest.raises(ValueError, match="labels of 'x' must hold at least one class"):
        ClassNames("x", (), (), ())
    with pytest.raises(ValueError, match="name cat more than once"):
        ClassNames("x", ("cat", "dog", "cat"), ("a", "b", "c"), ())
    with pytest.raises(ValueError, match="as many as the 2 labels, got 1"):
        ClassNames("x", ("cat", "dog"), ("cat",), ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        VOC.name = "other"
