"""A few cases of a product in place of all: faults show in one value, or in two that meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

__all__ = ["all_pairs"]


def all_pairs(*values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cases with one value of each list, such that any two values of different lists meet in some case; the
    same cases every time.

    Greedy: the next case is the one in which most pairs meet that have not met before.
    """
    if len(values) < 2:
        return list(product(*values))
    met = {case: set(combinations(enumerate(case), 2)) for case in product(*(range(len(v)) for v in values))}
    missing = set().union(*met.values())
    cases = []
    while missing:
        best = max(met, key=lambda case: len(met[case] & missing))
        missing -= met[best]
        cases.append(tuple(v[place] for v, place in zip(values, best, strict=True)))
    return cases
