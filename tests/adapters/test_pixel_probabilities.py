"""What prototypes say of each pixel, for people to read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin import InputError
from vpl_plugin.adapters.clip_es.pixel_probabilities import pixel_probabilities
from vpl_plugin.prototypes import Prototypes

NAMES = ("cat", "dog", "cow", "person")


def unit_rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 3), min_size=1, unique=True),
    st.floats(0.005, 2),
)
def test_rows_are_those_of_the_softmax_over_all_prototypes(
    seed: int, classes: list[int], temperature: float
) -> None:
    x, rows = unit_rows(5, seed), unit_rows(7, seed + 1)
    # Lengths of rows do not count, as in GradCAM.
    found = pixel_probabilities(x, Prototypes(3 * rows, NAMES), classes, temperature)
    weights = torch.exp((x.double() @ rows.double().T - 1) / temperature)
    expected = (weights / weights.sum(dim=1, keepdim=True)).T
    assert found.shape == (len(classes) + 2, 5)
    torch.testing.assert_close(found[:-2].double(), expected[classes], rtol=1e-3, atol=1e-5)
    absent = [index for index in range(4) if index not in classes]
    others = expected[absent].sum(dim=0)
    torch.testing.assert_close(found[-2].double(), others, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found[-1].double(), expected[4:].sum(dim=0), rtol=1e-3, atol=1e-5)


def test_prototypes_have_their_own_temperature() -> None:
    x, rows = unit_rows(5, 0), unit_rows(7, 1)
    own = pixel_probabilities(x, Prototypes(rows, NAMES, temperature=0.5), [1], 0.01)
    torch.testing.assert_close(own, pixel_probabilities(x, Prototypes(rows, NAMES), [1], 0.5))


@pytest.mark.parametrize("classes", [[4], [-1]])
def test_a_class_that_does_not_exist_is_refused(classes: list[int]) -> None:
    with pytest.raises(InputError, match=r"classes must be indices in \[0, 3\]"):
        pixel_probabilities(unit_rows(5, 0), Prototypes(unit_rows(7, 1), NAMES), classes, 0.01)
