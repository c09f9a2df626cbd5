"""Learning rates: the seed's number to its last digit, both ends of every shape, and warm-up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from minimind_core import SCHEDULES, ConfigError, get_lr, learning_rate
from minimind_core.schedule import warmup


def test_the_seeds_logged_rate_is_reproduced_to_its_last_digit():
    assert f"{get_lr(44100, 44160, 5e-4):.12f}" == "0.000050002277"


def test_the_seeds_schedule_follows_its_formula():
    for step in range(0, 101, 7):
        assert get_lr(step, 100, 3e-4) == 3e-4 / 10 + 0.5 * 3e-4 * (1 + math.cos(math.pi * step / 100))


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("seed", 1.1, 0.1), ("constant", 1.0, 1.0), ("linear", 1.0, 0.1), ("cosine", 1.0, 0.1), ("wsd", 1.0, 0.1)],
)
def test_each_schedule_starts_and_ends_where_it_should(name, first, last):
    assert learning_rate(name, 0, 1000, 2e-3) == pytest.approx(first * 2e-3, rel=1e-12)
    assert learning_rate(name, 1000, 1000, 2e-3) == pytest.approx(last * 2e-3, rel=1e-9)


def test_the_table_of_ends_above_covers_every_schedule():
    assert set(SCHEDULES) == {"seed", "constant", "linear", "cosine", "wsd"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_ever_rises_or_leaves_its_ends(name):
    rates = [learning_rate(name, step, 500, 1.0) for step in range(501)]
    assert all(later <= earlier + 1e-15 for earlier, later in pairwise(rates))
    assert min(rates) == rates[-1] > 0 and max(rates) == rates[0]


def test_stable_decay_holds_the_peak_until_its_last_part():
    rates = [learning_rate("wsd", step, 1000, 1.0) for step in range(1001)]
    assert rates[:701] == [1.0] * 701
    falls = [earlier - later for earlier, later in pairwise(rates[700:])]
    assert max(falls) == pytest.approx(min(falls), rel=1e-9)


def test_warm_up_rises_evenly_from_its_first_step_to_one():
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0
    assert learning_rate("constant", 0, 100, 8.0, warmup_steps=4) == 2.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_leaves_the_rest_of_a_run_alone(name):
    for step in (10, 50, 100):
        assert learning_rate(name, step, 100, 1e-3, warmup_steps=10) == learning_rate(name, step, 100, 1e-3)
    assert learning_rate(name, 0, 100, 1e-3, warmup_steps=10) < 0.12e-3


def test_an_unknown_schedule_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"triangle.*seed, constant, linear, cosine, wsd"):
        learning_rate("triangle", 0, 10, 1e-3)
