"""Time as work counts it: a machine gets on faster at one moment than at the next.

Others use it, its clock changes, pages come and go. What is held up is then all that is under way, so that
the delays of one request add up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["WINDOW_S", "Moments"]

WINDOW_S = 0.025
"""The length of a moment"""


class Moments:
    """Goes through these moments over and over, from one of them on."""

    def __init__(self, rates: Sequence[float], window_s: float = WINDOW_S, first: int = 0) -> None:
        """rates: work in a second of each moment, all above 0; none: 1 at any time."""
        first = first % len(rates) if rates else 0
        rates = [*rates[first:], *rates[:first]] or [1.0]
        self._window_s = window_s
        self._rates = rates
        self._done_s = [0.0, *accumulate(rate * window_s for rate in rates)]

    def work_s(self, at_s: float) -> float:
        """The work that one piece alone has had done from the beginning until then."""
        rounds, left_s = divmod(at_s, self._window_s * len(self._rates))
        window = min(int(left_s / self._window_s), len(self._rates) - 1)
        into_s = left_s - window * self._window_s
        return rounds * self._done_s[-1] + self._done_s[window] + into_s * self._rates[window]

    def at_s(self, work_s: float) -> float:
        """When so much has been done."""
        rounds, left_s = divmod(work_s, self._done_s[-1])
        window = min(bisect_right(self._done_s, left_s) - 1, len(self._rates) - 1)
        into_s = (left_s - self._done_s[window]) / self._rates[window]
        return (rounds * len(self._rates) + window) * self._window_s + into_s
