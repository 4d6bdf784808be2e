"""Ground truth that does not fit, or shows no class, is told with what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpl_plugin.localization import write_mask
from vpl_plugin.localization.ground_truth import check_shows_classes, read_truth


def mask(path: Path, *labels: int) -> Path:
    write_mask(path, np.array([labels], np.uint8))
    return path


def test_a_mask_that_fits_is_read(tmp_path: Path) -> None:
    assert read_truth(mask(tmp_path / "a.png", 0, 2, 255), 2, (1, 3)).tolist() == [[0, 2, 255]]


def test_a_mask_that_does_not_fit_is_named_with_what_it_holds(tmp_path: Path) -> None:
    path = mask(tmp_path / "a.png", 0, 38, 113)
    with pytest.raises(ValueError, match=r"a\.png is of size \(1, 3\), its photo of \(2, 3\)"):
        read_truth(path, 20, (2, 3))
    with pytest.raises(ValueError, match=r"a\.png has the label 38, .* holds 0, 38 and 113; exp"):
        read_truth(path, 20, (1, 3))
    with pytest.raises(FileNotFoundError):
        read_truth(tmp_path / "b.png", 20, (1, 3))


def test_masks_of_black_and_white_are_refused(tmp_path: Path) -> None:
    masks = [mask(tmp_path / f"{n}.png", 0, 255) for n in range(3)]
    with pytest.raises(ValueError, match=r"0 \(in 3\) and 255 \(in 3\); expected .* make it 1"):
        check_shows_classes(masks, 1)
    with pytest.raises(ValueError, match=r"not one of the 1 masks .* 0 \(in 1\); expected"):
        check_shows_classes([mask(tmp_path / "zeros.png", 0, 0)], 20)
    check_shows_classes([*masks, mask(tmp_path / "one.png", 0, 1)], 1)


@pytest.mark.shared
def test_the_black_and_white_mask_of_an_editor_is_refused(shared_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"0 \(in 1\) and 255 \(in 1\)"):
        check_shows_classes([shared_dir / "cases/masks/black_and_white.png"], 1)


def test_what_cannot_be_read_is_left_to_the_scoring(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no mask")
    check_shows_classes([tmp_path / "a.png", tmp_path / "absent.png"], 1)
    check_shows_classes([], 1)
