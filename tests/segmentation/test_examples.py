"""What is wrong with the data is said before the training starts, with all the files' names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vpl_plugin.distributed import Ranks
from vpl_plugin.localization import write_mask
from vpl_plugin.segmentation import examples as examples_module
from vpl_plugin.segmentation.examples import Example, check_examples, list_examples
from vpl_plugin.segmentation.settings import TrainingSettings
from vpl_plugin.segmentation.training import train_decoder


@pytest.fixture
def files(tiny, tmp_path):
    tiny.write_photos(tmp_path / "own")
    return tmp_path / "own"


def photos_of(files):
    return {path.stem: path for path in sorted((files / "photos").iterdir())}


def test_lists_photos_with_the_classes_their_masks_show(files):
    examples = list_examples(photos_of(files), files / "masks", 3)
    assert [example.name for example in examples] == list("012345")
    assert [example.classes for example in examples] == [(0,), (1,), (2,)] * 2
    assert examples[4].mask == files / "masks" / "4.png"


def test_classes_that_are_known_are_kept(files):
    known = {name: [2, 0] for name in photos_of(files)}
    examples = list_examples(photos_of(files), files / "masks", 3, classes=known)
    assert examples[1].classes == (2, 0)


def test_all_photos_without_a_mask_are_named(files):
    for name in "14":
        (files / "masks" / f"{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 photos without a pseudo-mask: 1 \(.*; 4 \("):
        list_examples(photos_of(files), files / "masks", 3)


def test_long_lists_are_cut(files):
    photos = {f"photo{index}": files / "photos" / "0.png" for index in range(30)}
    with pytest.raises(FileNotFoundError, match=r"30 photos without .* and 20 more$"):
        list_examples(photos, files / "masks", 3)


def test_all_masks_that_do_not_fit_are_named(files):
    write_mask(files / "masks" / "0.png", np.zeros((4, 5), np.uint8))
    write_mask(files / "masks" / "2.png", np.full((64, 78), 4, np.uint8))
    (files / "masks" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="3 pseudo-masks that do not fit") as caught:
        list_examples(photos_of(files), files / "masks", 3)
    message = str(caught.value)
    assert "0.png is 4 x 5 and its photo 48 x 90 (height x width)" in message
    assert "2.png holds the label 4, and labels go from 0 (background) to 3, or are 255" in message
    assert "3.png is not a readable mask" in message


def test_missing_and_broken_photos_are_named(files):
    photos = photos_of(files)
    photos["0"] = files / "gone.jpg"
    with pytest.raises(FileNotFoundError, match=r"1 photos that do not exist: .*gone\.jpg"):
        list_examples(photos, files / "masks", 3)
    photos["0"] = files / "broken.jpg"
    photos["0"].write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"cannot read the photo .*broken\.jpg"):
        list_examples(photos, files / "masks", 3)


def test_a_photo_that_lies_on_its_side_fits_the_mask_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    write_mask(tmp_path / "a.png", np.zeros((40, 20), np.uint8))
    assert list_examples({"a": tmp_path / "a.jpg"}, tmp_path, 1)[0].classes == ()


def test_nothing_to_train_on_and_names_given_twice_are_refused(files):
    with pytest.raises(ValueError, match="at least one photo"):
        list_examples({}, files / "masks", 3)
    example = list_examples(photos_of(files), files / "masks", 3)[0]
    with pytest.raises(ValueError, match="twice: 0"):
        check_examples([example, example], 3)


@pytest.fixture
def reads(monkeypatch):
    """The pseudo-masks that are read."""
    found = []
    genuine = examples_module.read_mask

    def counted(path):
        found.append(path.stem)
        return genuine(path)

    monkeypatch.setattr(examples_module, "read_mask", counted)
    return found


def test_masks_are_read_once_until_they_change(tiny, files, mini, reads, tmp_path):
    examples = list_examples(photos_of(files), files / "masks", 3)
    before = check_examples(examples, 3)
    settings = TrainingSettings(**{**tiny.SETTINGS, "iterations": 1})
    train_decoder(mini, examples, tiny.prototypes(), settings, tmp_path / "out", progress=False)
    assert sorted(reads) == list("012345")
    mask = np.array(examples_module.read_mask(files / "masks" / "4.png"))
    mask[:3] = 2
    write_mask(files / "masks" / "4.png", mask)
    reads.clear()
    after = check_examples(examples, 3)
    assert reads == ["4"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [n != 4 for n in range(6)]
    # Facts are the labels', whatever F they are checked for.
    with pytest.raises(ValueError, match="holds the label 3, and labels go from 0"):
        check_examples([e._replace(classes=()) for e in examples], 2)


def test_ranks_read_a_share_each_and_find_the_same(files, monkeypatch, reads):
    """Two ranks one after the other: what the first gives is added to what the second has."""
    write_mask(files / "masks" / "3.png", np.zeros((4, 5), np.uint8))
    examples = [
        Example(name, photo, files / "masks" / f"{name}.png", ())
        for name, photo in photos_of(files).items()
    ]
    given = []

    def first(rows):
        given.append(rows.clone())
        raise LookupError

    monkeypatch.setattr(examples_module, "sum_over_ranks", first)
    with pytest.raises(LookupError):
        check_examples(examples, 3, ranks=Ranks(0, 2))
    assert sorted(reads) == list("024")
    monkeypatch.setattr(examples_module, "sum_over_ranks", lambda rows: rows + given[0])
    reads.clear()
    with pytest.raises(ValueError, match=r"1 pseudo-masks that do not fit: .*3\.png is 4 x 5"):
        check_examples(examples, 3, ranks=Ranks(1, 2))
    assert sorted(reads) == list("135")
    good = examples[:3]
    given[0] = given[0][:3]
    assert check_examples(good, 3, ranks=Ranks(1, 2)) == check_examples(good, 3)


def test_classes_beyond_the_foreground_are_refused(files):
    example = Example("0", files / "photos" / "0.png", files / "masks" / "0.png", (0, 3))
    with pytest.raises(ValueError, match=r"beyond the 3 foreground classes: 0 \(\[0, 3\]\)"):
        check_examples([example], 3)
