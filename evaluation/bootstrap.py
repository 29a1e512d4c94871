"""How sure a figure is: by drawing the cases again, with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Interval", "difference", "interval"]

NUM_DRAWS = 1000
AT_A_TIME = 1 << 22
"""Numbers drawn together"""
LEVEL = 95.0
Pair = tuple[float, float]
"""What counts, of how much"""


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    """With `high`, what 95 % of draws lie between"""
    high: float


@dataclass(frozen=True)
class Difference:
    value: float
    low: float
    high: float
    p: float
    """How often chance alone would give as much: two-sided, at least 1 / 1000"""

    @property
    def is_significant(self) -> bool:
        return self.p < 1 - LEVEL / 100


def interval(pairs: Sequence[Pair], seed: int = 0) -> Interval:
    """Of the sum of what counts over the sum of how much there was; nan where there was nothing."""
    counts = np.asarray(pairs, np.float64).reshape(-1, 2)
    low, high = _percentiles(_ratios(counts, seed))
    return Interval(_ratio(counts.sum(axis=0)), low, high)


def difference(first: Sequence[Pair], second: Sequence[Pair], seed: int = 0) -> Difference:
    """Of `second` less `first`, over the same cases in the same order, which are drawn together."""
    one, other = (np.asarray(pairs, np.float64).reshape(-1, 2) for pairs in (first, second))
    if len(one) != len(other):
        raise ValueError(f"expected pairs of the same cases, got {len(one)} and {len(other)}")
    drawn = _ratios(other, seed) - _ratios(one, seed)  # the seed draws the same cases of both
    low, high = _percentiles(drawn)
    drawn = drawn[np.isfinite(drawn)]
    tail = min((drawn <= 0).mean(), (drawn >= 0).mean()) if len(drawn) else 1.0
    p = float(min(1.0, max(2 * tail, 1 / NUM_DRAWS)))
    return Difference(_ratio(other.sum(axis=0)) - _ratio(one.sum(axis=0)), low, high, p)


def _ratios(counts: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng, num = np.random.default_rng(seed), len(counts)
    ratios: list[NDArray[np.float64]] = []
    rows = max(1, AT_A_TIME // max(1, num))
    for start in range(0, NUM_DRAWS, rows):
        drawn = rng.integers(num, size=(min(rows, NUM_DRAWS - start), num)) if num else np.zeros((1, 0), int)
        sums = counts[drawn].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append(sums[:, 0] / sums[:, 1])
    return np.concatenate(ratios)


def _ratio(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
