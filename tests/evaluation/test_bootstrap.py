"""Intervals and differences by drawing cases again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.evaluation.bootstrap import difference, interval

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), min_size=1, max_size=30)


@given(pairs)
def test_the_value_is_the_ratio_of_sums(found: list[tuple[int, int]]) -> None:
    told = interval([(float(a), float(b)) for a, b in found])
    assert told.value == pytest.approx(sum(a for a, _ in found) / sum(b for _, b in found))
    assert told.low <= told.high


def test_an_interval_is_that_of_statistics() -> None:
    """Of a share of one half in a hundred: about 1.96 standard errors of 5 % on either side."""
    told = interval([(1.0, 1.0)] * 50 + [(0.0, 1.0)] * 50)
    assert (told.value, told.low, told.high) == pytest.approx((0.5, 0.402, 0.598), abs=0.02)


def test_it_is_the_same_every_time() -> None:
    found = [(float(number % 3), 3.0) for number in range(40)]
    assert interval(found) == interval(found)


def test_runs_that_are_the_same_differ_by_nothing() -> None:
    found = [(float(number % 2), 1.0) for number in range(40)]
    told = difference(found, found)
    assert (told.value, told.low, told.high, told.p) == (0, 0, 0, 1)
    assert not told.is_significant


def test_a_plain_difference_is_significant_and_a_chance_one_is_not() -> None:
    rng = np.random.default_rng(0)
    first = [(float(value), 1.0) for value in rng.random(200) < 0.5]
    better = [(1.0, 1.0) if number % 4 == 0 else pair for number, pair in enumerate(first)]
    assert difference(first, better).is_significant
    one_other = [(1.0 - first[0][0], 1.0), *first[1:]]
    assert not difference(first, one_other).is_significant


def test_cases_are_drawn_together() -> None:
    """Where each case is worse by the same, drawing makes no difference."""
    first = [(float(number), 100.0) for number in range(50)]
    second = [(part + 1, whole) for part, whole in first]
    told = difference(first, second)
    assert told.low == pytest.approx(0.01) and told.high == pytest.approx(0.01)


def test_nothing_to_count() -> None:
    assert math.isnan(interval([(0.0, 0.0)]).value)
    with pytest.raises(ValueError, match="pairs of the same cases"):
        difference([(0.0, 1.0)], [])
