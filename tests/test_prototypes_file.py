"""Prototypes survive the way to disk and back in one file; broken files say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vpl_plugin.prototypes import Prototypes


def test_round_trip(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    facts = {"model": "mini", "photos": 7}
    made = Prototypes(rows.T.contiguous().T, ("a", "b"), 0.03, facts)
    made.save(tmp_path / "p.safetensors")
    held = Prototypes.load(tmp_path / "p.safetensors")
    assert torch.equal(held.rows, rows)
    assert (held.class_names, held.temperature, held.about) == (("a", "b"), 0.03, facts)
    assert (held.num_foreground, held.background.shape) == (2, (1, 4))
    assert held.digest == made.digest
    # One file, so that nothing of it can be lost.
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


@pytest.mark.parametrize(
    "other",
    [
        Prototypes(torch.ones(3, 2), ("a", "b"), 0.04),
        Prototypes(torch.ones(3, 2), ("b", "a"), 0.03),
        Prototypes(torch.zeros(3, 2), ("a", "b"), 0.03),
        Prototypes(torch.ones(3, 2), ("a", "b"), None),
        Prototypes(torch.ones(3, 2).double(), ("a", "b"), 0.03),
    ],
)
def test_a_digest_tells_prototypes_apart(other: Prototypes) -> None:
    assert Prototypes(torch.ones(3, 2), ("a", "b"), 0.03).digest != other.digest


def test_prototypes_of_other_classes_are_named() -> None:
    pets = Prototypes(torch.eye(3), ("cat", "dog"))
    pets.check_classes(["cat", "dog"])
    with pytest.raises(ValueError, match=r"of other classes than these: it lacks 'cow' and it has"):
        pets.check_classes(["cat", "cow"])
    with pytest.raises(ValueError, match="their order differs"):
        pets.check_classes(["dog", "cat"])


def test_what_does_not_fit_is_named() -> None:
    rows = torch.eye(3)
    with pytest.raises(TypeError, match="rows must be a floating-point tensor"):
        Prototypes(rows.int(), ("a",))
    for wrong, classes, temperature, message in (
        (rows[0], ("a",), None, r"rows must have shape \(N, D\); got \(3,\)"),
        (rows, ("a", "a"), None, "class_names lists a more than once"),
        (rows, ("a", "b", "c", "d"), None, "class_names must name from 1 to 3 classes"),
        (rows, (), None, "class_names must name from 1 to 3 classes"),
        (rows, ("a",), 0.0, "temperature must be above 0"),
        (rows, ("a",), float("nan"), "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Prototypes(wrong, classes, temperature)


def test_what_is_no_prototype_file_is_refused(tmp_path: Path) -> None:
    made = Prototypes(torch.zeros(2, 2), ("a",))
    with pytest.raises(ValueError, match=r"must end in .safetensors; got '.*p.pt'"):
        made.save(tmp_path / "p.pt")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"broken.safetensors is not a readable safetensors file"):
        Prototypes.load(broken)
    save_file({"other": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must hold a tensor 'prototypes' .* holds \['other'\]"):
        Prototypes.load(tmp_path / "other.safetensors")
    # Without its header a file would be taken for another temperature.
    save_file({"prototypes": torch.zeros(2, 2)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="does not say which classes its rows are, nor at which"):
        Prototypes.load(tmp_path / "bare.safetensors")
    for header in ('{"class_names":', "[]", "{}"):
        save_file(
            {"prototypes": torch.zeros(2, 2)},
            tmp_path / "cut.safetensors",
            metadata={"vpl_prototypes": header},
        )
        with pytest.raises(ValueError, match=r"cut\.safetensors has a broken header"):
            Prototypes.load(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError):
        Prototypes.load(tmp_path / "none.safetensors")
