"""An exception between any two lines of the scheduler: each request still gets what it would get alone."""

from __future__ import annotations

import sys
from collections import deque
from types import FrameType
from typing import Any

import pytest
from fake_model import EOT, make_prompt, picture
from fake_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_strategies import requests, settings_of_worlds

from antiphon.sched.plan import StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.trial import Trial


class Fault(BaseException):
    """Raised at an arbitrary line."""


class Line:
    """Raises Fault when the scheduler's code runs its line of this number, counted as they are run."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if "/sched/" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                raise Fault
        return self


def step_into_fault(world: World, number: int) -> bool:
    before = sys.gettrace()
    sys.settrace(Line(number))
    try:
        world.step()
    except Fault:
        return True
    finally:
        sys.settrace(before)
    return False


def make(world: World, spec: dict[str, Any]) -> RequestState:
    speaks = spec["max_units"] is not None
    prompt = make_prompt(spec["words"], spec["units"], [picture(p) for p in spec["pictures"]], speaks=speaks)
    return world.make(
        prompt, max_tokens=spec["max_tokens"], max_units=spec["max_units"], ignore_eos=spec["ignore_eos"]
    )


@pytest.mark.slow
@settings(max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    setting=settings_of_worlds,
    asked=st.lists(requests, min_size=1, max_size=5),
    faults=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 400), st.booleans()), min_size=1, max_size=4),
    num_spare_blocks=st.sampled_from([1, 4, 30]),
)
def test_each_gets_what_it_would_get_alone(
    setting: dict[str, Any],
    asked: list[dict[str, Any]],
    faults: list[tuple[int, int, bool]],
    num_spare_blocks: int,
) -> None:
    """A fault is (steps before it, line, whether the requests that ran are then served one by one)."""
    unbounded = World(10_000, **setting)
    smallest = max(
        sum(t.blocks_missing(len(t) + 1) for t in (r.text, r.speech) if t is not None)
        for r in [make(unbounded, spec) for spec in asked]
    )
    world = World(smallest + num_spare_blocks, **setting)
    added = [world.add(make(world, spec)) for spec in asked]
    for num_steps, line, is_tried in faults:
        for _ in range(num_steps):
            world.step()
        ran = list(world.scheduler.running)
        if step_into_fault(world, line):
            world.scheduler.restart(added)
            world.scheduler.check_integrity()
            assert world.pool.num_free == world.pool.num_blocks
            if is_tried:
                world.scheduler.trials = deque(Trial(r, _stack(r), _end(r)) for r in ran if not r.finished)
    world.drain()
    for request in added:
        assert request.finished
        world.check_answer(request)
    assert world.pool.num_free == world.pool.num_blocks


def _stack(request: RequestState) -> Any:
    return "top" if request.speaks and request.unit_ids else "text"


def _end(request: RequestState) -> int:
    """Where such a request is again before it gets anything new."""
    if _stack(request) == "top":
        return request.num_speech_known
    return len(request.text)


def test_picked_ids_stay_known_however_far_they_had_come() -> None:
    """One was picked but not fed back yet; others were the last, but the request had not ended yet."""
    world = World(100)
    half, ended, cut = (
        world.add(world.make(make_prompt([20 + i], speaks=False), max_tokens=2)) for i in range(3)
    )
    half.text_ids.append(10)
    ended.text_ids.append(EOT)
    cut.text_ids += [10, 11]
    world.scheduler.restart([half, ended, cut])
    assert list(half.text.keys)[half.num_text_prompt :] == [10]
    assert (half.finished, ended.finish_reason, cut.finish_reason) == (False, "stop", "length")
    assert list(world.scheduler.waiting) == [half]


def test_a_request_on_trial_is_served_alone_until_it_has_passed_the_place() -> None:
    world = World(100)
    first, second = (world.add(world.make(make_prompt([20 + i] * 6, speaks=False))) for i in range(2))
    world.step()
    plan = StackPlan("text", world.scheduler.schedule_text().chunks)
    assert [chunk.request for chunk in plan.chunks] == [first, second]
    world.scheduler.restart([first, second])
    world.scheduler.trials = deque(Trial.of(chunk, plan.stack) for chunk in plan.chunks)
    steps = world.drain()
    names = [[name for name, *_ in step.text] for step in steps]
    assert names[:2] == [[first.request_id], [second.request_id]]
    assert len(names[2]) == 2
    assert not world.scheduler.trials
    for request in (first, second):
        world.check_answer(request)
