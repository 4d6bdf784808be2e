"""The order of the examples: every one once an epoch, whoever asks and whenever."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.segmentation.sampler import PartSampler, draws
from vpl_plugin.segmentation.schedule import poly_learning_rate


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 99))
def test_every_example_once_an_epoch(batch_size, count, seed):
    taken = [
        draw.example
        for iteration in range(3 * count)
        for draw in draws(iteration, batch_size, count, seed)
    ]
    for start in range(0, 3 * count, count):
        assert sorted(taken[start : start + count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(draw.example for draw in draws(epoch, 20, 20, seed))
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(orders) == 16


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_ranks_and_parts_share_the_batch(share, parts, world, start):
    options = {"batch_size": share * parts * world, "num_examples": 7, "seed": 3}
    ranks = [
        list(PartSampler(start, 5, **options, accumulation=parts, rank=rank, world=world))
        for rank in range(world)
    ]
    alone = list(PartSampler(start, 5, **options, accumulation=parts))
    assert len(alone) == (5 - start) * parts
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone
    together = [
        draw
        for iteration in range(start, 5)
        for draw in draws(iteration, options["batch_size"], 7, 3)
    ]
    assert list(chain(*alone)) == together


def test_a_draw_has_random_numbers_of_its_own():
    first, second = draws(4, 2, 9, 0)
    numbers = {
        float(draw.generator(seed).random()) for draw in (first, second) for seed in range(3)
    }
    assert len(numbers) == 6
    assert draws(4, 2, 9, 0)[1].generator(1).random() in numbers


def test_the_learning_rate_rises_and_then_only_falls():
    rates = [poly_learning_rate(0.1, i, 50, power=0.9, warmup=10) for i in range(50)]
    assert rates[0] == pytest.approx(0.01)
    top = rates.index(max(rates))
    assert 5 <= top <= 9
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.005
    assert poly_learning_rate(0.1, 0, 50) == 0.1
