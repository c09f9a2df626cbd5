"""Shuffles without lists: no number twice and none missing, every place as likely as any other, the same everywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind_core import shuffle
from minimind_core.shuffle import Permutation


@pytest.fixture(params=["listed", "by steps"])
def way(request, monkeypatch) -> str:
    """Both ways: small orders by a list, and the steps that large ones are made by, on small ones."""
    if request.param == "by steps":
        monkeypatch.setattr(shuffle, "SMALL", 0)
    return request.param


def order(size: int, *key: int) -> np.ndarray:
    return Permutation(size, *key)(np.arange(size))


def test_every_number_comes_once_whatever_the_size(way):
    for size in range(1, 3001, 1 if way == "by steps" else 7):
        assert np.bincount(order(size, 1337, size % 3), minlength=size).tolist() == [1] * size, size


@given(size=st.integers(1, 2**40), key=st.lists(st.integers(0, 2**63), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_different_places_of_a_huge_order_hold_different_numbers(size, key, seed):
    places = np.unique(np.random.default_rng(seed).integers(size, size=200))
    found = Permutation(size, *key)(places)
    assert len(np.unique(found)) == len(places) and found.min() >= 0 and found.max() < size


@given(size=st.integers(1, 5000), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_a_place_is_worked_out_alone_as_among_others(size, seed, epoch):
    one, whole = Permutation(size, seed, epoch), order(size, seed, epoch)
    assert [int(one(np.array([place]))[0]) for place in (0, size // 2, size - 1)] == whole[[0, size // 2, -1]].tolist()
    assert one(np.zeros((2, 0), np.int64)).shape == (2, 0) and whole.dtype == np.int64


def test_all_orders_of_four_are_about_as_frequent(way):
    found = Counter(tuple(order(4, seed, 1).tolist()) for seed in range(4800))
    assert len(found) == 24 and all(130 < times < 270 for times in found.values()), found


def test_every_number_is_as_likely_at_every_place_and_beside_every_other(way):
    size, orders = 40, 2000
    at, beside = np.zeros((size, size)), np.zeros((size, size))
    for seed in range(orders):
        found = order(size, seed)
        at[np.arange(size), found] += 1
        beside[found[:-1], found[1:]] += 1
    beside = beside[~np.eye(size, dtype=bool)]
    for counts, degrees in ((at, (size - 1) ** 2), (beside, size * (size - 1))):
        expected = counts.mean()
        assert 0.8 < ((counts - expected) ** 2 / expected).sum() / degrees < 1.2


def test_a_large_order_keeps_nothing_of_the_first():
    size = 1_000_003
    found = Permutation(size, 5, 1)(np.arange(20_000))
    assert abs(np.corrcoef(found, np.arange(20_000))[0, 1]) < 0.03
    assert (np.abs(np.diff(found)) < 100).mean() < 0.002
    assert np.histogram(found, bins=20, range=(0, size))[0].std() < 70


def test_seeds_and_epochs_have_orders_of_their_own(way):
    assert len({tuple(order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}) == 25


def test_an_order_is_the_same_on_every_machine(way):
    wanted = {"listed": [3, 9, 0, 11, 1, 5, 6, 10, 7, 8, 2, 4], "by steps": [10, 6, 9, 0, 4, 8, 11, 1, 5, 7, 3, 2]}
    assert order(12, 1337, 2).tolist() == wanted[way]
    assert Permutation(10**6, 1337, 1)(np.array([0, 1, 999_999])).tolist() == [719046, 975398, 573619]
