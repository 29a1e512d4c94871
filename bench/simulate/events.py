"""A clock that jumps from one event to the next, and work that several share a machine for."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from antiphon.bench.simulate.moments import Moments

__all__ = ["ROUNDING_S", "Activity", "Clock", "Event", "Machine"]

ROUNDING_S = 1e-12
"""Of sums of seconds: what is left of work that has been done."""


@dataclass(eq=False)
class Event:
    """Something that will happen, unless it is cancelled."""

    at_s: float
    happen: Callable[[], None]
    is_cancelled: bool = False


class Clock:
    """Events in order of time; those of one moment in the order in which they were announced."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def at(self, at_s: float, happen: Callable[[], None]) -> Event:
        """Announce an event; one that lies in the past happens next."""
        event = Event(max(at_s, self.now_s), happen)
        heapq.heappush(self._heap, (event.at_s, next(self._numbers), event))
        return event

    def step(self) -> bool:
        """Let the next event happen. False: there is none."""
        while self._heap:
            at_s, _, event = heapq.heappop(self._heap)
            if not event.is_cancelled:
                self.now_s = at_s
                event.happen()
                return True
        return False


@dataclass(eq=False)
class Activity:
    """A piece of work under way."""

    kind: str
    left_s: float
    """What is left of it, in seconds of a machine that does nothing else"""
    done: Callable[[], None]


class Machine:
    """Work of several kinds side by side, each of which slows the others down.

    slowed[kind][other]: by how much a second of `kind` grows for each piece of `other` beside it. With 1 both
    ways, two pieces take turns, and each takes twice as long; with 0, they do not meet. moments: what all of
    it counts for at each time.
    """

    def __init__(
        self, clock: Clock, slowed: Mapping[str, Mapping[str, float]], moments: Moments | None = None
    ) -> None:
        self.busy_s: dict[str, float] = {}
        """By kind: how long there was such work."""
        self._clock = clock
        self._slowed = slowed
        self._moments = moments or Moments(())
        self._active: list[Activity] = []
        self._rates: list[float] = []
        self._since_s = 0.0
        self._event: Event | None = None
        self._ended_s: dict[str, float] = {}

    def rested_s(self, kind: str | None = None) -> float:
        """How long there has been no work of this kind, or none at all."""
        if any(kind in (None, activity.kind) for activity in self._active):
            return 0.0
        ended_s = [at_s for of, at_s in self._ended_s.items() if kind in (None, of)]
        return self._clock.now_s - max(ended_s, default=self._clock.now_s)

    def begin(self, kind: str, work_s: float, done: Callable[[], None]) -> Activity:
        """`done` is called when the work has been done."""
        self._advance()
        activity = Activity(kind, work_s, done)
        self._active.append(activity)
        self._plan()
        return activity

    def left_s(self, activity: Activity) -> float:
        """What is left of it now."""
        self._advance()
        return activity.left_s

    def change(self, activity: Activity, left_s: float) -> None:
        """Let it have this much left from now on."""
        self._advance()
        activity.left_s = left_s
        self._plan()

    def stop(self) -> None:
        """Drop all work: nothing of it will be done."""
        self._advance()
        self._ended_s.update((activity.kind, self._clock.now_s) for activity in self._active)
        self._active.clear()
        self._plan()

    def _advance(self) -> None:
        since_s, self._since_s = self._since_s, self._clock.now_s
        passed_s = self._since_s - since_s
        if passed_s <= 0:
            return
        done_s = self._moments.work_s(self._since_s) - self._moments.work_s(since_s)
        for activity, rate in zip(self._active, self._rates, strict=True):
            activity.left_s = max(0.0, activity.left_s - done_s * rate)
        for kind in {activity.kind for activity in self._active}:
            self.busy_s[kind] = self.busy_s.get(kind, 0.0) + passed_s

    def _plan(self) -> None:
        if self._event is not None:
            self._event.is_cancelled = True
            self._event = None
        self._rates = []
        if not self._active:
            return
        counts: dict[str, int] = {}
        for activity in self._active:
            counts[activity.kind] = counts.get(activity.kind, 0) + 1
        soonest_s = float("inf")
        for activity in self._active:
            slowed = self._slowed.get(activity.kind, {})
            beside = sum(
                slowed.get(kind, 0.0) * (count - (kind == activity.kind)) for kind, count in counts.items()
            )
            rate = 1 / (1 + beside)
            self._rates.append(rate)
            soonest_s = min(soonest_s, activity.left_s / rate)
        ends_s = self._moments.at_s(self._moments.work_s(self._clock.now_s) + soonest_s)
        self._event = self._clock.at(ends_s, self._end)

    def _end(self) -> None:
        self._event = None
        self._advance()
        # the one whose end this is has a rounding left at most
        shortest_s = min(activity.left_s for activity in self._active)
        ended = [a for a in self._active if a.left_s <= max(ROUNDING_S, shortest_s)]
        self._active = [activity for activity in self._active if activity not in ended]
        self._ended_s.update((activity.kind, self._clock.now_s) for activity in ended)
        self._plan()
        for activity in ended:
            activity.done()
