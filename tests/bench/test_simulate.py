"""A simulated fleet keeps what must hold of any: laws of queues, of time, and of the engine behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.bench.engine import paced_speaking
from antiphon.bench.simulate.costs import MODEL, PREPARE, SPEECH, Served, Wake, Work
from antiphon.bench.simulate.events import Clock, Machine
from antiphon.bench.simulate.fleet import Fleet, simulate
from antiphon.bench.simulate.floors import FloorCosts
from antiphon.bench.simulate.gpus import GPUS, Gpu
from antiphon.bench.simulate.moments import Moments
from antiphon.bench.simulate.planning import replicas_needed
from antiphon.bench.simulate.replica import Replica
from antiphon.bench.simulate.results import Goal, Simulated
from antiphon.bench.simulate.scaling import Autoscaling, Failures
from antiphon.bench.simulate.speaking import EvenSpeaking
from antiphon.bench.simulate.speech import CountedStream
from antiphon.bench.simulate.traffic import Arrival, day
from antiphon.codec.checkpoint.hyperparams import HOP
from antiphon.config import CacheConfig, EngineConfig, StreamSchedule
from antiphon.sched.speaking import SpeakingState

H100 = FloorCosts(GPUS["h100"])
INFINITE = FloorCosts(Gpu("infinite", math.inf, math.inf, math.inf, 80e9, 1.0), launch_s=0.0, host=0.0)


@dataclass(frozen=True)
class FlatCosts:
    """Every pass and every batch takes the same, whatever is in it."""

    pass_: float = 0.0
    speech: float = 0.0
    prepare: float = 0.0
    per_s: float = 0.0
    served: Served = field(default_factory=lambda: H100.served)
    slowed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    wake: float = 0.0
    wakes: str = MODEL
    """The kind of work that takes this longer after a pause"""

    def pass_s(self, work: Work) -> float:
        return self.pass_

    def step_s(self, rows: int) -> float:
        return 0.0

    def speech_s(self, frames: Sequence[int], final_frames: Sequence[int]) -> float:
        return self.speech

    def prepare_s(self, speech_s: float, num_pictures: int) -> float:
        return self.prepare + self.per_s * speech_s

    def intake_s(self) -> float:
        return 0.0

    def wake_s(self, kind: str, pause_s: float) -> float:
        return Wake(self.wake).after(pause_s) if kind == self.wakes else 0.0


def served(num_blocks: int = 400, **changed: object) -> Served:
    """Of the released size, with a small cache."""
    own = H100.served
    cache = CacheConfig(num_blocks, 16, 32, 8, 8, 128, 2)
    return replace(own, cache=cache, settings=EngineConfig(**changed))  # type: ignore[arg-type]


def asked(at_s: float, **given: object) -> Arrival:
    usual: dict[str, object] = {"reply_s": 2.0, "reply_tokens": 9, "speech_s": 2.0}
    return Arrival(at_s=at_s, **(usual | given))  # type: ignore[arg-type]


def rush(num_requests: int, per_s: float, seed: int = 0) -> list[Arrival]:
    """Requests as of a day, which come at such a rate."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / per_s, num_requests))
    whole = day(2 * num_requests, seed)[:num_requests]
    return [replace(a, at_s=float(at_s)) for a, at_s in zip(whole, times, strict=True)]


def first_audio_s(found: Simulated) -> list[float]:
    return [o.measured.ttfa_s for o in found.outcomes if o.measured.ttfa_s is not None]


def told(found: Simulated) -> list[tuple[object, ...]]:
    """All that became of the requests, to a microsecond."""
    times = ("ttft_s", "ttfa_s", "e2el_s", "audio_s", "underrun_s")
    return [
        (
            o.arrival,
            o.replica,
            o.measured.failure,
            *(None if (t := getattr(o.measured, name)) is None else round(t, 6) for name in times),
        )
        for o in found.outcomes
    ]


# --- time ---------------------------------------------------------------------------------------


def test_work_side_by_side_takes_turns() -> None:
    clock, ended = Clock(), dict[str, float]()
    machine = Machine(clock, {MODEL: {SPEECH: 1.0}, SPEECH: {MODEL: 1.0}})
    machine.begin(MODEL, 1.0, lambda: ended.update(model=clock.now_s))
    machine.begin(SPEECH, 3.0, lambda: ended.update(speech=clock.now_s))
    machine.begin(PREPARE, 0.5, lambda: ended.update(prepare=clock.now_s))
    while clock.step():
        pass
    assert ended == pytest.approx({"prepare": 0.5, "model": 2.0, "speech": 4.0})
    assert machine.busy_s == pytest.approx({MODEL: 2.0, SPEECH: 4.0, PREPARE: 0.5})


@given(
    rates=st.lists(st.floats(0.01, 4), min_size=0, max_size=20),
    times=st.lists(st.floats(0, 10), min_size=2, max_size=5),
    first=st.integers(0, 50),
)
def test_time_and_the_work_done_by_then_say_the_same(
    rates: list[float], times: list[float], first: int
) -> None:
    moments = Moments(rates, first=first)
    assert moments.work_s(0.0) == 0.0
    for earlier_s, later_s in pairwise(sorted(times)):
        assert moments.work_s(earlier_s) <= moments.work_s(later_s)
        assert moments.at_s(moments.work_s(later_s)) == pytest.approx(later_s, abs=1e-6)
        if not rates:
            assert moments.work_s(later_s) == pytest.approx(later_s)


@given(
    work=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8),
    slowed=st.floats(0, 3),
)
def test_a_machine_loses_no_work(work: list[tuple[float, float]], slowed: float) -> None:
    """Each piece takes at least as long as alone, and the last ends no later than in turn."""
    clock, ended = Clock(), dict[int, float]()
    machine = Machine(clock, {MODEL: {MODEL: slowed}})

    def begin(number: int) -> None:
        machine.begin(MODEL, work[number][1], lambda: ended.update({number: clock.now_s}))

    for number, (at_s, _) in enumerate(work):
        clock.at(at_s, lambda number=number: begin(number))  # type: ignore[misc]
    while clock.step():
        pass
    assert len(ended) == len(work)
    for number, (at_s, work_s) in enumerate(work):
        assert ended[number] >= at_s + work_s - 1e-6
    most_s = max(at_s for at_s, _ in work) + sum(s for _, s in work) * max(1.0, slowed, 1 + slowed)
    assert max(ended.values()) <= most_s + 1e-6


# --- what a request meets -------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    units=st.integers(1, 300),
    pushes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    first=st.integers(4, 30),
)
def test_a_stream_that_is_counted_makes_all_frames_once(units: int, pushes: list[int], first: int) -> None:
    stream = CountedStream(StreamSchedule(first_units=first))
    samples, left = 0, units
    for push in pushes:
        count = min(push, left)
        stream.add(range(count), final=False)
        left -= count
        while stream.ready:
            expected = stream.final_frames() * HOP
            made = stream.make()
            assert made == expected >= 0
            samples += made
    stream.add(range(left), final=True)
    while stream.ready:
        samples += stream.make()
    assert stream.is_done
    assert samples == stream.flow.params.mel_frames(units) * HOP


@given(
    rate=st.floats(0, 2),
    text=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    jumps=st.lists(st.integers(1, 9), max_size=12),
)
def test_even_speaking_jumps_as_it_walks(rate: float, text: list[int], jumps: list[int]) -> None:
    """And it walks as `bench engine` paces its requests."""
    states: list[SpeakingState] = [
        kind(blank=0, eot=-1, lag=3, carries_speech=lambda _: True, text_input=False)
        for kind in (EvenSpeaking, EvenSpeaking, paced_speaking(rate))
    ]
    leaping = states[0]
    assert isinstance(leaping, EvenSpeaking)
    for state in states[:2]:
        assert isinstance(state, EvenSpeaking)
        state.rate = rate
    known: list[int] = []
    for more in text:
        known += range(more)
        for state in states:
            state.consume(known, text_ended=False)
        for jump in jumps:
            steps = leaping.steps_without_text(len(known), jump, text_ended=False)
            assert 0 <= steps <= jump
            for state in states[1:]:
                for _ in range(steps):
                    state.read_back(0)
                    state.consume(known, text_ended=False)
                    assert not state.waits
            if steps:
                leaping.read_back_many(steps, 0, known)
            for state in states[1:]:
                assert state.visible == leaping.visible
                assert state.fusion_ids == leaping.fusion_ids
                assert state.num_consumed == leaping.num_consumed
            if steps < jump and not leaping.waits:  # the next one waits
                for state in states:
                    state.read_back(0)
                    state.consume(known, text_ended=False)
                    assert state.waits
                break


def test_nothing_takes_time_where_nothing_costs_any() -> None:
    found = simulate([asked(0.0), asked(1.0, text_tokens=5, speech_s=0.0)], INFINITE, 1)
    assert first_audio_s(found) == [0.0, 0.0]
    assert [o.measured.e2el_s for o in found.outcomes] == [0.0, 0.0]
    assert [o.measured.audio_s for o in found.outcomes] == pytest.approx([2.0, 2.0], abs=0.02)


def test_one_request_alone_takes_the_sum_of_its_parts() -> None:
    """Bottom, text and top read the prompt. Each later step is a pass, with a text pass where text is due."""
    costs = FlatCosts(pass_=1.0, speech=0.25, prepare=2.0)
    found = simulate([asked(0.0, reply_s=0.4, reply_tokens=3)], costs, 1)
    measured = found.outcomes[0].measured
    assert measured.ttft_s == 2.0 + 3 * 1.0  # read; each stack passes over the prompt, and an id is picked
    num_units = 10  # bottom and top read the prompt; there are three ids; the first unit is heard by itself
    passes = 2 + 3 + num_units + 1
    assert measured.e2el_s == pytest.approx(2.0 + passes * 1.0 + 0.25)


@pytest.mark.parametrize("kind", [MODEL, SPEECH, PREPARE])
def test_work_takes_longer_after_a_pause(kind: str) -> None:
    """The second request comes at once, when there is none, and the third after four seconds."""
    costs = FlatCosts(pass_=0.001, speech=0.002, prepare=0.003, wake=0.05, wakes=kind)
    short = {"reply_s": 0.4, "reply_tokens": 3}
    arrivals = [asked(0.0, **short), asked(0.01, **short), asked(4.0, **short)]
    _, soon_s, late_s = first_audio_s(simulate(arrivals, costs, 1))
    assert first_audio_s(simulate(arrivals, replace(costs, wake=0.0), 1))[2] == pytest.approx(late_s - 0.05)
    assert soon_s < late_s


def test_the_floors_are_those_of_the_released_size() -> None:
    """The table of docs/gpu.md."""
    parts = {name: 2 * count / 1e9 for name, count in H100.parts.items()}
    assert parts["top"] == pytest.approx(2.52, abs=0.005)
    assert parts["unit_head"] == pytest.approx(1.08, abs=0.005)
    assert parts["bottom"] == pytest.approx(1.31, abs=0.005)
    assert parts["ctc_head"] == pytest.approx(1.05, abs=0.005)
    assert parts["fusion"] == pytest.approx(0.34, abs=0.005)
    assert parts["text"] + parts["lm_head"] == pytest.approx(15.0, abs=0.05)
    whole = FloorCosts(GPUS["h100"], efficiency=1.0, launch_s=0.0)
    unit = whole.pass_s(Work("top", 1, 1, 0, 1, is_decode=True))
    assert 1e3 * unit == pytest.approx(1.78 + 0.10, abs=0.01)  # new text in the windows is counted in each


# --- laws of queues -------------------------------------------------------------------------------


def test_an_md1_queue_waits_as_its_formula_says() -> None:
    """One thread that reads requests, each in the same time, is such a queue if all else takes none."""
    service_s, load = 1.0, 0.7
    rng = np.random.default_rng(3)
    arrivals = [asked(float(at_s)) for at_s in np.cumsum(rng.exponential(service_s / load, 1_500))]
    # four read at a time, and slow each other down as one reader that shares its time would be slowed
    costs = FlatCosts(prepare=service_s, slowed={PREPARE: {PREPARE: 1.0}})
    found = simulate(arrivals, costs, 1)
    mean_s = float(np.mean(first_audio_s(found)))
    shared_s = service_s / (1 - load)  # M/G/1 with shared time; of up to four, the law lies between
    in_turn_s = service_s + load * service_s / (2 * (1 - load))  # M/D/1 in turn: Pollaczek and Khinchin
    assert in_turn_s < mean_s < shared_s


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_an_md1_queue_of_speech(load: float) -> None:
    """Replies of one chunk each, made one at a time in order of arrival, in the same time each."""
    service_s, rng = 1.0, np.random.default_rng(7)
    arrivals = [
        asked(float(at_s), reply_s=0.2, reply_tokens=1)
        for at_s in np.cumsum(rng.exponential(service_s / load, 1_500))
    ]
    one_at_a_time = replace(served(20_000), max_batch_frames=0, ladder=None)
    found = simulate(arrivals, FlatCosts(speech=service_s, served=one_at_a_time), 1)
    expected_s = service_s + load * service_s / (2 * (1 - load))
    assert np.mean(first_audio_s(found)) == pytest.approx(expected_s, rel=0.15)
    assert found.speech_busy == pytest.approx(load, rel=0.08)


def test_littles_law() -> None:
    """Requests that are open on average are their rate times their time, whatever happens to them."""
    arrivals = rush(150, 4.0, 2)
    fleet = Fleet(arrivals, H100, 2)
    places = [place.replica for place in fleet._places]
    area, last_s = 0.0, 0.0
    while not fleet.is_over and fleet.clock.step():
        pass
    found = fleet._summary()
    times = [(o.arrival.at_s, 1) for o in found.outcomes]
    times += [(o.arrival.at_s + o.measured.e2el_s, -1) for o in found.outcomes]
    num_open = 0
    for at_s, change in sorted(times):
        area, last_s, num_open = area + num_open * (at_s - last_s), at_s, num_open + change
    assert num_open == 0
    assert area == pytest.approx(sum(o.measured.e2el_s for o in found.outcomes))
    assert all(not replica.open for replica in places)


# --- what must hold of any fleet ------------------------------------------------------------------

ARRIVALS = st.builds(
    Arrival,
    at_s=st.floats(0, 20).map(lambda at_s: round(at_s, 3)),
    reply_s=st.floats(0.04, 8).map(lambda s: round(s, 2)),
    reply_tokens=st.integers(1, 40),
    speech_s=st.floats(0.1, 6).map(lambda s: round(s, 2)),
    text_tokens=st.integers(0, 30),
    pictures=st.sampled_from([(), ("a",), ("b",)]),
    conversation=st.sampled_from(["", "x", "y"]),
    prompt=st.sampled_from(["", "p"]),
)
LIVE = st.builds(
    lambda arrival, pause_s: replace(arrival, realtime=True, pause_s=pause_s),
    ARRIVALS,
    st.sampled_from([0.0, 0.1, 0.5]),
)
TRAFFIC = st.lists(st.one_of(ARRIVALS, LIVE), min_size=1, max_size=14)
SMALL = FlatCosts(
    0.0041234567,
    0.0512345678,
    0.0101234567,
    0.0201234567,
    served(120, max_num_seqs=4, max_num_batched_tokens=256),
)
SLOWED = {MODEL: {SPEECH: 0.5}, SPEECH: {MODEL: 1.0, SPEECH: 1.0}, PREPARE: {MODEL: 0.3}}


@settings(max_examples=40, deadline=None)
@given(traffic=TRAFFIC, num_replicas=st.integers(1, 3))
def test_each_request_ends_once(traffic: list[Arrival], num_replicas: int) -> None:
    """Whole with all its sound, or with the reason why not; and the caches are empty again."""
    fleet = Fleet(traffic, replace(SMALL, slowed=SLOWED), num_replicas)
    ended: list[int] = []
    before = fleet._ended

    def counted(number: int, *rest: Any) -> None:
        ended.append(number)
        before(number, *rest)

    fleet._ended = counted  # type: ignore[method-assign, assignment]
    found = fleet.run()
    assert found is not None
    assert sorted(ended) == list(range(len(traffic)))
    for outcome in found.outcomes:
        if outcome.measured.failure is None:
            num_units = max(1, round(outcome.arrival.reply_s * 25))
            assert outcome.measured.audio_s == pytest.approx(num_units / 25, abs=0.02)
            assert outcome.measured.ttfa_s is not None
            assert outcome.measured.ttft_s is not None
            assert outcome.arrival.pause_s <= outcome.measured.ttfa_s + 1e-9
            assert outcome.measured.ttfa_s <= outcome.measured.e2el_s
        else:
            assert outcome.measured.failure in ("too long", "larger than the cache")
    while fleet.clock.step():  # what was announced for later finds nothing to do
        pass
    for place in fleet._places:
        place.replica.scheduler.check_integrity()
        assert not place.replica.scheduler.running
        assert place.replica.scheduler.pool.num_free == place.replica.scheduler.pool.num_blocks


@settings(max_examples=60, deadline=None)
@given(traffic=TRAFFIC, num_blocks=st.sampled_from([60, 120, 4000]), max_num_seqs=st.sampled_from([2, 8]))
def test_jumping_is_stepping(traffic: list[Arrival], num_blocks: int, max_num_seqs: int) -> None:
    own = served(num_blocks, max_num_seqs=max_num_seqs, max_num_batched_tokens=256)
    costs = replace(SMALL, served=own, slowed=SLOWED, rates=(1.0, 0.25, 1.75))
    jumped, walked = (simulate(traffic, costs, 1, jumps=jumps) for jumps in (True, False))
    assert told(jumped) == told(walked)
    assert jumped.num_steps + jumped.num_jumped == walked.num_steps
    assert jumped.num_preemptions == walked.num_preemptions
    assert jumped.cache_peak == walked.cache_peak
    assert jumped.duration_s == pytest.approx(walked.duration_s)


def test_most_steps_are_jumped_over() -> None:
    """The property above would hold emptily if nothing was."""
    found = simulate(rush(60, 2.0), H100, 1)
    assert found.num_jumped > found.num_steps


def test_the_same_seed_gives_the_same() -> None:
    arrivals = rush(80, 4.0, 5)
    failures = Failures(20.0, 5.0)
    first, again, other = (simulate(arrivals, H100, 3, failures=failures, seed=s) for s in (1, 1, 2))
    assert told(first) == told(again)
    assert told(first) != told(other)


def test_more_replicas_are_no_worse() -> None:
    arrivals = rush(120, 60.0, 3)
    waits = [np.array(first_audio_s(simulate(arrivals, H100, n))) for n in (1, 2, 4, 8)]
    p99 = [float(np.percentile(each, 99)) for each in waits]
    assert all(more <= 1.05 * fewer for fewer, more in pairwise(p99))
    assert p99[0] > 2 * p99[-1]


def test_the_fewest_replicas_that_are_enough() -> None:
    arrivals, goal = rush(60, 30.0, 4), Goal(0.6)
    needed = replicas_needed(arrivals, H100, goal)
    assert needed is not None
    count, found = needed
    assert count > 1
    assert goal.is_met(found.outcomes)
    assert not goal.is_met(simulate(arrivals, H100, count - 1).outcomes)
    assert replicas_needed(arrivals[:20], H100, Goal(0.001)) is None


def test_a_conversation_keeps_its_replica_and_finds_its_prompts() -> None:
    turns = [asked(10.0 * i, conversation="x") for i in range(6)]
    found = simulate([*turns, *(asked(10.0 * i + 0.1) for i in range(6))], H100, 3)
    assert len({o.replica for o in found.outcomes if o.arrival.conversation}) == 1
    alone = simulate(turns, H100, 1)
    without = replace(H100, settings=EngineConfig(enable_prefix_caching=False))
    uncached = simulate(turns, without, 1)
    assert first_audio_s(alone)[0] == first_audio_s(uncached)[0]
    assert first_audio_s(alone)[-1] < first_audio_s(uncached)[-1]


def test_speech_that_is_heard_while_it_is_spoken_is_answered_sooner() -> None:
    waited, live = (simulate([asked(9.0, speech_s=8.0, realtime=r)], H100, 1) for r in (False, True))
    assert first_audio_s(live)[0] < first_audio_s(waited)[0]


def test_a_reply_is_begun_in_the_pause() -> None:
    """Its sound is there when the turn is over, and not before."""
    found = simulate([asked(9.0, realtime=True, pause_s=0.5)], H100, 1)
    assert first_audio_s(found) == [0.5]


# --- failures, scaling ----------------------------------------------------------------------------


def test_a_replica_that_fails_loses_its_requests_and_comes_back() -> None:
    arrivals = [asked(0.5 * i, reply_s=8.0) for i in range(120)]
    slow = replace(H100, efficiency=0.1)
    found = simulate(arrivals, slow, 2, failures=Failures(30.0, 10.0), seed=1)
    reasons = {o.measured.failure for o in found.outcomes}
    assert found.num_failures > 1
    assert reasons == {None, "replica failed"}
    assert len(found.outcomes) == len(arrivals)
    replicas = {o.replica for o in found.outcomes[-50:]}
    assert replicas == {"replica 0", "replica 1"}


def test_requests_wait_while_no_replica_is_up() -> None:
    fleet = Fleet([asked(0.0), asked(1.0)], FlatCosts(pass_=0.1), 1, failures=Failures(1e9, 5.0))
    fleet.clock.at(0.5, lambda: fleet._fail(fleet._places[0]))
    found = fleet.run()
    assert found is not None
    assert [o.measured.failure for o in found.outcomes] == ["replica failed", None]
    second = found.outcomes[1].measured
    assert second.ttft_s is not None
    assert second.ttft_s > 4.5


def test_the_autoscaler_follows_the_traffic() -> None:
    quiet = [asked(30.0 * i) for i in range(20)]
    crowd = [asked(600.0 + 0.3 * i, reply_s=6.0) for i in range(300)]
    after = [asked(700.0 + 20.0 * i) for i in range(60)]
    slow = replace(H100, efficiency=0.03)
    scaling = Autoscaling(most=4, delay_s=20.0, waiting_audio_s=20.0)
    found = simulate([*quiet, *crowd, *after], slow, 1, autoscaling=scaling)
    alone = simulate([*quiet, *crowd, *after], slow, 1)
    assert found.most_replicas == 4
    assert all(o.measured.failure is None for o in found.outcomes)
    late = [float(np.mean(first_audio_s(each)[20:320])) for each in (found, alone)]
    assert late[0] < late[1]
    assert found.replica_s < 0.6 * 4 * found.duration_s  # most of them left again
    assert {o.replica for o in found.outcomes[-20:]} != {o.replica for o in found.outcomes[20:320]}


def test_too_many_requests_are_refused() -> None:
    few = served(max_num_waiting=3, max_num_seqs=1)
    found = simulate([asked(0.0) for _ in range(20)], FlatCosts(pass_=1.0, served=few), 1)
    failures = [o.measured.failure for o in found.outcomes]
    assert failures.count("overloaded") == 16
    assert failures.count(None) == 4  # one runs, three wait


def test_a_request_that_fits_nowhere_is_refused_alone() -> None:
    small = served(30, max_model_len=4000)
    found = simulate(
        [asked(0.0), asked(0.1, speech_s=100.0), asked(0.2, reply_s=500.0)], FlatCosts(served=small), 1
    )
    assert [o.measured.failure for o in found.outcomes] == [None, "larger than the cache", "too long"]


def test_clients_ask_one_after_the_other() -> None:
    arrivals = [asked(0.0) for _ in range(12)]
    found = simulate(arrivals, FlatCosts(prepare=1.0), 1, clients=3)
    assert found.duration_s == pytest.approx(4.0)
    assert [o.measured.e2el_s for o in found.outcomes] == pytest.approx([1.0] * 12)


def test_requests_that_warm_up_do_not_count() -> None:
    costs = FlatCosts(pass_=0.01)
    cold = simulate([asked(1.0, prompt="p")], costs, 1)
    warm = simulate([asked(1.0, prompt="p")], costs, 1, warm=[asked(5.0, prompt="p")])
    assert len(warm.outcomes) == 1
    assert warm.duration_s <= cold.duration_s


def test_a_replica_that_has_failed_is_as_new() -> None:
    fleet = Fleet([asked(0.0)], H100, 1)
    replica: Replica = fleet._places[0].replica
    while not replica.scheduler.running:
        fleet.clock.step()
    replica.fail("tried")
    replica.scheduler.check_integrity()
    assert replica.scheduler.pool.num_free == replica.scheduler.pool.num_blocks
    assert not replica.open
    assert [o.measured.failure for o in fleet._outcomes.values()] == ["tried"]
    while fleet.clock.step():
        pass
    assert json.dumps(fleet.found.num_failures) == "0"
