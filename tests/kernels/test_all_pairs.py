"""What stands for a product of cases has every pair of its values."""

from __future__ import annotations

from itertools import combinations, product

from all_pairs import all_pairs
from hypothesis import given
from hypothesis import strategies as st


@given(sizes=st.lists(st.integers(0, 5), max_size=4))
def test_any_two_values_meet_in_a_case_of_the_product(sizes: list[int]) -> None:
    values = [[f"{name}{i}" for i in range(size)] for name, size in zip("abcd", sizes, strict=False)]
    cases = all_pairs(*values)
    assert set(cases) <= set(product(*values))
    assert len(set(cases)) == len(cases)
    if all(sizes):
        wanted = {pair for a, b in combinations(values, 2) for pair in product(a, b)}
        assert wanted == {pair for case in cases for pair in combinations(case, 2)} or len(values) < 2
        assert {value for case in cases for value in case} == {v for vs in values for v in vs}


def test_the_cases_are_fewer_and_the_same_every_time() -> None:
    values = [range(5), range(4), range(3), range(2)]
    cases = all_pairs(*values)
    assert len(cases) <= 24, "of 120; five and four values have 20 pairs"
    assert cases == all_pairs(*values)


def test_of_two_lists_all_cases_are_left() -> None:
    assert sorted(all_pairs("ab", [1, 2, 3])) == sorted(product("ab", [1, 2, 3]))


def test_values_need_not_be_hashable() -> None:
    assert all_pairs([{}, {0: 1}], [[]]) == [({}, []), ({0: 1}, [])]
