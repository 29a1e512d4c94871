"""Replicas behind a router: conversations keep their replica, others go where the least is under way;
replicas fail and come back, and an autoscaler starts and ends them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from antiphon.bench.serving.reply import Reply
from antiphon.bench.simulate.asked import Asked, Outcome
from antiphon.bench.simulate.costs import Costs
from antiphon.bench.simulate.events import Clock
from antiphon.bench.simulate.prompts import Prompts
from antiphon.bench.simulate.replica import Replica
from antiphon.bench.simulate.results import Goal, Simulated
from antiphon.bench.simulate.scaling import Autoscaling, Failures
from antiphon.bench.simulate.traffic import Arrival

__all__ = ["Fleet", "simulate"]

SCALE_EVERY_S = 10.0
CALM = 0.25
"""Share of the target below which the last replica is no longer needed."""
CALM_S = 300.0
"""How long it has been calm before a replica is ended."""


@dataclass(eq=False)
class _Place:
    """Room for a replica, from when it is paid for."""

    replica: Replica
    since_s: float
    is_up: bool
    is_leaving: bool = False


class Fleet:
    """All of a simulation that is under way."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        costs: Costs,
        num_replicas: int,
        *,
        failures: Failures | None = None,
        autoscaling: Autoscaling | None = None,
        clients: int | None = None,
        warm: Sequence[Arrival] = (),
        seed: int = 0,
        jumps: bool = True,
    ) -> None:
        """num_replicas: at the beginning. clients: None: requests come when the trace says; else so many
        clients ask one after the other, whatever the times in the trace. warm: requests that are asked one
        after the other before all that counts, on one replica."""
        self.clock = Clock()
        self.found = Simulated()
        self.num_ended = 0
        self.arrivals = arrivals
        self._costs, self._prompts, self._jumps = costs, Prompts(costs.served), jumps
        self._failures, self._autoscaling = failures, autoscaling
        self._rng, self._moments = random.Random(seed), random.Random(f"moments {seed}")
        self._origin_s = 0.0
        """When what counts begins"""
        self._places: list[_Place] = []
        self._gone: list[_Place] = []
        self._homes: dict[str, _Place] = {}
        self._pending: deque[Asked] = deque()
        """Requests for which there is no replica"""
        self._outcomes: dict[int, Outcome] = {}
        self._calm_since_s: float | None = None
        self._num_made = 0
        for _ in range(num_replicas):
            self._start(0.0)
        self._clients: int | None = None
        self._next: Iterator[tuple[int, Arrival]] = iter(())
        for number, arrival in enumerate(warm, 1):
            begun_s = self.clock.now_s
            self._come(-number, replace(arrival, at_s=begun_s, realtime=False, pause_s=0.0), begun_s)
            while self.num_ended < number and self.clock.step():
                pass
        self.found.duration_s, self.num_ended, self._outcomes = 0.0, 0, {}
        self._origin_s = self.clock.now_s
        self._clients = clients
        if clients is None:
            shifted = [replace(arrival, at_s=arrival.at_s + self._origin_s) for arrival in arrivals]
            self._next = iter(sorted(enumerate(shifted), key=lambda coming: _begins_s(coming[1])))
            self._announce()
        else:
            self._next = iter(enumerate(arrivals))
            for _ in range(clients):
                self._ask_next()
        if autoscaling is not None:
            self.clock.at(SCALE_EVERY_S, self._scale)

    @property
    def is_over(self) -> bool:
        return self.num_ended == len(self.arrivals)

    def run(
        self, noted: Callable[[int], None] = lambda _: None, goal: Goal | None = None
    ) -> Simulated | None:
        """To the end of the last request; None as soon as it is certain that `goal` is missed. noted: called
        now and then with the number of those that have ended."""
        told = 0
        while not self.is_over and self.clock.step():
            if self.num_ended - told >= 100:
                told = self.num_ended
                noted(told)
                if goal is not None and not goal.is_open(self._outcomes.values(), len(self.arrivals)):
                    return None
        assert self.is_over, "every request ends"
        noted(self.num_ended)
        return self._summary()

    # --- requests ------------------------------------------------------------------------------

    def _announce(self) -> None:
        """The next request of the trace comes when it is due; one that is heard while it is spoken,
        before."""
        if (coming := next(self._next, None)) is None:
            return
        number, arrival = coming
        begins_s = _begins_s(arrival)
        self.clock.at(begins_s, partial(self._come, number, arrival, arrival.at_s))
        self.clock.at(begins_s, self._announce)

    def _ask_next(self) -> None:
        if (coming := next(self._next, None)) is not None:
            number, arrival = coming
            spoken_s = arrival.speech_s if arrival.realtime else 0.0
            due_s = self.clock.now_s + spoken_s
            self._come(number, replace(arrival, at_s=due_s), due_s)

    def _come(self, number: int, arrival: Arrival, due_s: float) -> None:
        kind = "spoken" if arrival.speech_s else "typed"
        reply = Reply(kind + ("+picture" if arrival.pictures else ""), due_s)
        asked = Asked(f"{number}", arrival, reply, partial(self._ended, number))
        self._route(asked)

    def _route(self, asked: Asked) -> None:
        up = [place for place in self._places if place.is_up and not place.is_leaving]
        if not up:
            self._pending.append(asked)
            return
        conversation = asked.arrival.conversation
        home = self._homes.get(conversation) if conversation else None
        if home is None or home not in up:
            home = min(up, key=lambda place: place.replica.num_open)
            if conversation:
                self._homes[conversation] = home
        asked.replica = home.replica.name
        home.replica.take(asked)

    def _ended(self, number: int, asked: Asked, failure: str | None) -> None:
        now_s = self.clock.now_s
        self._outcomes[number] = Outcome(asked.arrival, asked.reply.end(now_s, failure), asked.replica)
        self.num_ended += 1
        self.found.duration_s = now_s - self._origin_s
        for place in [p for p in self._places if p.is_leaving and not p.replica.open]:
            self._stop(place)
        if self._clients is not None:
            self.clock.at(now_s, self._ask_next)

    # --- replicas ------------------------------------------------------------------------------

    def _start(self, delay_s: float) -> None:
        name = f"replica {self._num_made}"
        self._num_made += 1
        first = self._moments.randrange(max(1, len(self._costs.rates)))
        replica = Replica(self.clock, self._costs, self._prompts, name, jumps=self._jumps, first_moment=first)
        place = _Place(replica, self.clock.now_s, is_up=not delay_s)
        self._places.append(place)
        self.found.most_replicas = max(self.found.most_replicas, len(self._places))
        if delay_s:
            self.clock.at(self.clock.now_s + delay_s, partial(self._up, place))
        if self._failures is not None:
            self._fail_later(place, delay_s)

    def _up(self, place: _Place) -> None:
        place.is_up = True
        pending, self._pending = self._pending, deque()
        for asked in pending:
            self._route(asked)

    def _fail_later(self, place: _Place, after_s: float) -> None:
        assert self._failures is not None
        lives_s = self._rng.expovariate(1 / self._failures.mean_time_between_s)
        self.clock.at(self.clock.now_s + after_s + lives_s, partial(self._fail, place))

    def _fail(self, place: _Place) -> None:
        if place not in self._places:
            return
        assert self._failures is not None
        self.found.num_failures += 1
        place.is_up = False
        place.replica.fail("replica failed")
        if place not in self._places:  # it was leaving
            return
        self.clock.at(self.clock.now_s + self._failures.restart_s, partial(self._up, place))
        self._fail_later(place, self._failures.restart_s)

    def _stop(self, place: _Place) -> None:
        if place in self._places:
            self._places.remove(place)
            self._gone.append(place)
            self._pay(place)

    def _pay(self, place: _Place) -> None:
        self.found.replica_s += self.clock.now_s - place.since_s

    def _scale(self) -> None:
        scaling = self._autoscaling
        assert scaling is not None
        staying = [place for place in self._places if not place.is_leaving]
        waiting_s = self._waiting_audio_s()
        wanted = -(-waiting_s // scaling.waiting_audio_s)
        now_s = self.clock.now_s
        if wanted > len(staying) and len(staying) < scaling.most:
            coming = sum(not place.is_up for place in staying)
            for _ in range(min(scaling.most, int(wanted)) - len(staying) if not coming else 0):
                self._start(scaling.delay_s)
        is_calm = waiting_s <= CALM * scaling.waiting_audio_s * (len(staying) - 1)
        if not is_calm:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        elif now_s - self._calm_since_s >= CALM_S and len(staying) > scaling.least:
            self._calm_since_s = now_s
            leaving = min(staying, key=lambda place: place.replica.num_open)
            leaving.is_leaving = True
            if not leaving.replica.open:
                self._stop(leaving)
        if not self.is_over:
            self.clock.at(now_s + SCALE_EVERY_S, self._scale)

    def _waiting_audio_s(self) -> float:
        """Speech of the replies that have not begun to sound."""
        silent = [place.replica.open for place in self._places]
        waiting_s = sum(asked.arrival.reply_s for asked in self._pending)
        return waiting_s + sum(
            asked.arrival.reply_s for asks in silent for asked in asks.values() if not asked.has_sound
        )

    def _summary(self) -> Simulated:
        found = self.found
        for place in self._places:
            self._pay(place)
        found.outcomes = [self._outcomes[number] for number in sorted(self._outcomes)]
        replicas = [place.replica for place in (*self._gone, *self._places)]
        spent_s = max(found.replica_s, 1e-9)
        found.model_busy = sum(r.machine.busy_s.get("model", 0.0) for r in replicas) / spent_s
        found.speech_busy = sum(r.machine.busy_s.get("speech", 0.0) for r in replicas) / spent_s
        step_s = sum(r.step_s for r in replicas)
        found.mean_rows = sum(r.row_s for r in replicas) / max(step_s, 1e-9)
        found.cache_peak = max((r.most_blocks / r.scheduler.pool.num_blocks for r in replicas), default=0.0)
        found.num_preemptions = sum(r.num_preemptions for r in replicas)
        found.num_steps = sum(r.num_steps for r in replicas)
        found.num_jumped = sum(r.num_jumped for r in replicas)
        return found


def simulate(
    arrivals: Sequence[Arrival],
    costs: Costs,
    num_replicas: int,
    *,
    failures: Failures | None = None,
    autoscaling: Autoscaling | None = None,
    clients: int | None = None,
    warm: Sequence[Arrival] = (),
    seed: int = 0,
    jumps: bool = True,
    noted: Callable[[int], None] = lambda _: None,
) -> Simulated:
    """What becomes of these requests on so many replicas; see `Fleet`. The same for the same seed."""
    fleet = Fleet(
        arrivals,
        costs,
        num_replicas,
        failures=failures,
        autoscaling=autoscaling,
        clients=clients,
        warm=warm,
        seed=seed,
        jumps=jumps,
    )
    found = fleet.run(noted)
    assert found is not None, "without a goal, none is missed"
    return found


def _begins_s(arrival: Arrival) -> float:
    """When a replica first hears of it: of one that is heard while it is spoken, when its user begins."""
    return max(0.0, arrival.at_s - arrival.speech_s) if arrival.realtime else arrival.at_s
