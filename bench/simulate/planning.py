"""How many replicas a traffic needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from antiphon.bench.simulate.costs import Costs
from antiphon.bench.simulate.fleet import Fleet
from antiphon.bench.simulate.results import Goal, Simulated
from antiphon.bench.simulate.scaling import Failures
from antiphon.bench.simulate.traffic import Arrival

__all__ = ["MOST_REPLICAS", "replicas_needed"]

MOST_REPLICAS = 1 << 14


def replicas_needed(
    arrivals: Sequence[Arrival],
    costs: Costs,
    goal: Goal,
    *,
    failures: Failures | None = None,
    seed: int = 0,
    trying: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> tuple[int, Simulated] | None:
    """The fewest that meet the goal, and what became of the requests there: by doubling, then by halves.
    None: not even a replica for each request does, or `MOST_REPLICAS`.

    trying: called with each number that is tried; what it returns gets the number of requests that have
    ended.
    """

    def attempt(count: int) -> Simulated | None:
        found = Fleet(arrivals, costs, count, failures=failures, seed=seed).run(trying(count), goal)
        return found if found is not None and goal.is_met(found.outcomes) else None

    most = min(MOST_REPLICAS, len(arrivals))
    low, high = 0, 1
    while (found := attempt(high)) is None:
        if high == most:
            return None
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        if (tried := attempt(middle)) is None:
            low = middle
        else:
            high, found = middle, tried
    return high, found
