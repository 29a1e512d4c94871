"""Requests for which nobody waits yet: they come after all others until they are confirmed."""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import FIRST_UNIT, STEADY, ids, make_prompt, picture
from fake_world import Step
from growing_world import GrowingWorld, open_prompt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_strategies import requests, settings_of_worlds

from antiphon.sched.request import RequestState


def written(
    world: GrowingWorld, num_positions: int = 6, first: int = 20, max_tokens: int = 3
) -> RequestState:
    return world.make(make_prompt(ids(num_positions, first), speaks=False), max_tokens=max_tokens)


def names(steps: list[Step]) -> list[str]:
    """Who finished, in order."""
    return [name for step in steps for name in step.finished]


def test_it_is_admitted_when_nobody_else_waits() -> None:
    world = GrowingWorld(60, max_num_seqs=1, max_num_batched_tokens=2, mind=STEADY)
    guess = world.guess(written(world, first=20))
    speaking = world.open([1, 2, 3])
    other = world.add(written(world, first=21))
    assert world.scheduler.num_waiting == 3
    assert world.step().admitted == [other.request_id]
    assert list(world.scheduler.waiting_speculative) == [guess]
    assert names(world.settle()) == [other.request_id, guess.request_id]
    assert world.scheduler.resting == [speaking], "it was silent by then"
    world.commit(speaking)
    world.drain()
    for request in (guess, speaking, other):
        world.check_answer(request)


def test_it_waits_with_those_that_are_passed_over() -> None:
    """No speech starts while much of it still lacks its audio; then nothing speculative starts either."""
    world = GrowingWorld(60, mind=STEADY)
    spoken = world.add(world.make(make_prompt(speaks=True), max_units=3))
    guess = world.guess(written(world))
    assert world.scheduler.admit(may_speak=False) == []
    assert world.scheduler.has_work
    assert world.scheduler.admit() == [spoken, guess]


def test_it_is_served_after_others() -> None:
    """The budget of a pass is 4: what the others leave is for the speculative one."""
    world = GrowingWorld(60, max_num_batched_tokens=4, enable_prefix_caching=False, mind=STEADY)
    guess = world.guess(written(world, 6, 20, max_tokens=9))
    world.step()
    other = world.add(written(world, 7, 21, max_tokens=9))
    steps = [world.step() for _ in range(3)]
    assert [[(name, start, end) for name, start, end, _ in step.text] for step in steps] == [
        [(other.request_id, 0, 4)],
        [(other.request_id, 4, 7), (guess.request_id, 4, 5)],
        [(other.request_id, 7, 8), (guess.request_id, 5, 6)],
    ]
    speaking = world.open([1, 2, 3, 4, 5, 6])
    first = world.step()
    assert [name for name, *_ in first.bottom] == [speaking.request_id]
    assert [name for name, *_ in first.text] == [other.request_id, speaking.request_id], "and no more"
    world.settle()
    for request in (guess, other):
        world.check_answer(request)


def test_running_ahead_comes_before_it() -> None:
    """Text that a spoken reply will ask for later comes before that which a speculative request waits for."""
    world = GrowingWorld(60, max_num_batched_tokens=1, text_lookahead=9, mind=STEADY)
    reply = world.add(world.make(make_prompt(speaks=True), max_units=30))
    while not (reply.unit_ids and not reply.waits_for_text):
        world.step()
    guess = world.guess(written(world, 6))
    served = [name for _ in range(12) for name, *_ in world.step().text]
    num_ahead = served.index(guess.request_id)
    assert num_ahead > 0
    assert served == [reply.request_id] * num_ahead + [guess.request_id] * (len(served) - num_ahead)


def test_it_makes_way_first() -> None:
    world = GrowingWorld(60, max_num_batched_tokens=16, enable_prefix_caching=False, mind=STEADY)
    silent = world.open([1])
    world.settle()
    guesses = [world.guess(written(world, max_tokens=30)) for _ in range(2)]
    world.step()
    first, late = (world.add(written(world, max_tokens=30)) for _ in range(2))
    world.step()
    speaking = world.open([1] * 30)
    world.step()
    assert world.scheduler.running == [silent, *guesses, first, late, speaking]
    order = []
    while world.scheduler.running[1:]:
        victim = world.scheduler._next_victim()
        assert victim is not None
        order.append(victim)
        world.scheduler.preempt(victim)
    assert order == [*guesses[::-1], silent, speaking, late]
    assert list(world.scheduler.waiting_speculative) == guesses
    assert world.scheduler.resting == [silent]
    world.scheduler.check_integrity()
    world.settle()
    for request in (*guesses, first, late):
        world.check_answer(request)


@pytest.mark.parametrize("newcomer", ["written", "open"])
def test_for_whom_it_makes_way(newcomer: str) -> None:
    world = GrowingWorld(60, max_num_seqs=1, mind=STEADY)
    guess = world.guess(written(world, max_tokens=30))
    world.step()
    other = world.add(written(world, first=21)) if newcomer == "written" else world.open([1, 2])
    world.step()
    assert world.scheduler.running == [other]
    assert (list(world.scheduler.waiting_speculative), guess.num_preemptions) == ([guess], 1)
    assert names(world.settle())[-1] == guess.request_id
    world.check_answer(guess)


def test_who_makes_way_for_it() -> None:
    """Only an open request with nothing to compute."""
    world = GrowingWorld(60, max_num_seqs=1, max_num_batched_tokens=2, mind=STEADY)
    first, second = world.guess(written(world)), world.guess(written(world, first=21))
    assert world.step().admitted == [first.request_id]
    assert names(world.settle()) == [first.request_id, second.request_id]
    assert first.num_preemptions == second.num_preemptions == 0
    speaking = world.open([1, 2, 3, 4, 5])
    world.step()
    third = world.guess(written(world))
    world.step()
    assert world.scheduler.running == [speaking]
    world.settle()
    assert third.finished
    assert world.scheduler.resting == [speaking]


def test_a_guess_about_a_user_who_goes_on() -> None:
    """It takes the row of its own user, who takes it back by speaking."""
    world = GrowingWorld(60, max_num_seqs=1, mind=STEADY)
    user = world.open([1, 2])
    world.settle()
    guess = world.guess(world.make(make_prompt([], [1, 2], speaks=False), max_tokens=20))
    world.step()
    assert (world.scheduler.running, world.scheduler.resting) == ([guess], [user])
    assert world.update_speech(user, [1, 2, 3])
    world.step()
    assert world.scheduler.running == [user]
    world.abort(guess)
    world.commit(user)
    world.drain()
    world.check_answer(user)


def test_confirmed_while_it_waits() -> None:
    world = GrowingWorld(60, max_num_seqs=1, mind=STEADY)
    running = world.add(written(world))
    world.step()
    first, guess, late = written(world, first=21), written(world, first=22), written(world, first=23)
    world.add(first)
    world.guess(guess)
    world.scheduler.confirm(guess)
    world.add(late)
    assert not guess.is_speculative
    assert list(world.scheduler.waiting) == [first, guess, late]
    assert names(world.drain()) == [r.request_id for r in (running, first, guess, late)]


def test_confirmed_while_it_runs() -> None:
    world = GrowingWorld(60, max_num_seqs=1, mind=STEADY)
    guess = world.guess(written(world, max_tokens=9))
    world.step()
    world.scheduler.confirm(guess)
    world.scheduler.confirm(guess)
    other = world.add(written(world))
    assert names(world.drain()) == [guess.request_id, other.request_id]
    assert guess.num_preemptions == 0
    world.check_answer(guess)


def test_aborted_and_restarted_wherever_it_is() -> None:
    world = GrowingWorld(60, max_num_seqs=1, mind=STEADY)
    running, waiting, last = (world.guess(written(world, max_tokens=9)) for _ in range(3))
    world.step()
    world.scheduler.restart(list(world.requests.values()))
    assert list(world.scheduler.waiting_speculative) == [running, waiting, last]
    world.step()
    assert world.scheduler.running == [running]
    for request in (running, waiting):
        world.abort(request)
    world.settle()
    assert last.finished
    world.check_answer(last)


# --- what it finds computed -------------------------------------------------------------------------


@pytest.mark.parametrize("max_units", [None, 6], ids=["text", "speech"])
@pytest.mark.parametrize("layers", [(2, 2), (4, 2), (2, 8)], ids=["same", "long speech", "long text"])
def test_the_prompt_of_a_growing_request_is_shared(max_units: int | None, layers: tuple[int, int]) -> None:
    """All but its last, unfinished block: of a speculative prompt, each stack computes that and the end of
    the message. The bottom layers go as far back as the LLM does, which reads what they heard."""
    for num_units in range(30, 50):
        world = GrowingWorld(100, mind=STEADY, num_text_layers=layers[0], num_speech_layers=layers[1])
        user = world.open([], max_units=max_units)
        units: list[int] = []
        for n in range(num_units % 5, num_units, 5):  # each time, the last units are heard anew
            units = [*(i % 7 for i in range(n)), 9, 9]
            assert world.update_speech(user, units)
            world.settle()
        prompt = make_prompt([], units, speaks=max_units is not None)
        guess = world.guess(world.make(prompt, max_units=max_units))
        steps = world.settle()
        assert guess.finished and guess.num_preemptions == 0
        assert guess.speech is not None
        end, longest = len(prompt.ids), max(guess.text.block_size, guess.speech.block_size)
        for stack, size in (("text", guess.text.block_size), ("bottom", longest), ("top", longest)):
            spans = [span for step in steps for span in getattr(step, stack)]
            num_computed = sum(
                min(b, end) - min(a, end) for name, a, b, _ in spans if name == guess.request_id
            )
            assert num_computed <= size + len(user.prompt.closing), (stack, num_units)
        world.check_answer(guess)


# --- whatever comes between -------------------------------------------------------------------------

opened = st.fixed_dictionaries(
    {
        "ids": st.lists(st.integers(20, 21), max_size=3),
        "units": st.lists(st.integers(0, 1), max_size=9),
        "max_tokens": st.sampled_from([1, 4, 40]),
        "max_units": st.sampled_from([None, 1, 8, 40]),
    }
)
actions = st.one_of(
    st.tuples(st.just("guess"), requests),
    st.tuples(st.just("guess"), requests),
    st.tuples(st.just("add"), requests),
    st.tuples(st.just("open"), opened),
    st.tuples(st.just("update"), st.tuples(st.integers(0, 9), st.lists(st.integers(0, 1), max_size=5))),
    st.tuples(st.just("commit"), st.integers(0, 9)),
    st.tuples(st.just("confirm"), st.integers(0, 9)),
    st.tuples(st.just("abort"), st.integers(0, 9)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("step"), st.integers(1, 6)),
)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    setting=settings_of_worlds,
    todo=st.lists(actions, min_size=6, max_size=24),
    num_spare_blocks=st.sampled_from([0, 1, 2, 4, 9, 30]),
)
def test_each_gets_what_it_would_get_alone(
    setting: dict[str, Any], todo: list[tuple[str, Any]], num_spare_blocks: int
) -> None:
    unbounded = GrowingWorld(10_000, **setting)
    made = [_make(unbounded, what) for name, what in todo if name in ("guess", "add", "open")]
    tracks = [[t for t in (r.text, r.speech) if t is not None] for r in made]
    smallest = max([1, *(sum(t.blocks_missing(len(t) + 3) for t in each) for each in tracks)])
    world = GrowingWorld(smallest + num_spare_blocks, **setting)
    survivors: list[RequestState] = []

    def commit(request: RequestState) -> None:
        if not request.unit_positions:
            assert world.update_speech(request, [1]), "there is room for a unit"
        world.commit(request)

    def chosen(found: list[RequestState], index: int) -> list[RequestState]:
        return [found[index % len(found)]] if found else []

    for name, what in todo:
        growing = [request for request in survivors if request.is_growing]
        match name:
            case "add" | "open":
                survivors.append(world.add(_make(world, what)))
            case "guess":
                survivors.append(world.guess(_make(world, what)))
            case "update":
                for request in chosen(growing, what[0]):
                    heard = [i - FIRST_UNIT for i in request.speech_ids if i >= FIRST_UNIT]
                    world.update_speech(request, heard + what[1])
            case "commit":
                for request in chosen(growing, what):
                    commit(request)
            case "confirm":
                for request in chosen([r for r in world.unfinished if r.is_speculative], what):
                    world.scheduler.confirm(request)
            case "abort":
                for request in chosen(world.unfinished, what):
                    world.abort(request)
                    survivors.remove(request)
            case "restart":
                world.scheduler.restart(survivors)
            case "step":
                for _ in range(what):
                    world.step()
    world.settle()
    assert all(request.finished or request.is_growing for request in survivors)
    for request in survivors:
        if request.is_growing:
            commit(request)
    world.settle()
    assert not world.unfinished
    assert world.pool.num_free == world.cache.num_blocks
    for request in survivors:
        world.check_answer(request)


def _make(world: GrowingWorld, spec: dict[str, Any]) -> RequestState:
    spec = dict(spec)
    if "words" not in spec:
        return world.make(open_prompt(spec.pop("ids"), spec.pop("units")), **spec)
    pictures = [picture(name) for name in spec.pop("pictures")]
    speaks = spec["max_units"] is not None
    return world.make(make_prompt(spec.pop("words"), spec.pop("units"), pictures, speaks=speaks), **spec)
