"""With an LLM elsewhere, each request gets what it would get alone, and its text takes no blocks."""

from __future__ import annotations

from typing import Any

import pytest
from elsewhere_world import ElsewhereWorld
from fake_model import STEADY, ids, make_prompt, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_strategies import requests, settings_of_worlds

from antiphon.sched.request import RequestState


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    setting=settings_of_worlds,
    specs=st.lists(requests, min_size=1, max_size=5),
    num_spare_blocks=st.sampled_from([0, 1, 4, 30]),
    most_at_once=st.sampled_from([1, 3, 50]),
    restart_at=st.sampled_from([None, 1, 4, 9]),
)
def test_each_gets_what_it_would_get_alone(
    setting: dict[str, Any],
    specs: list[dict[str, Any]],
    num_spare_blocks: int,
    most_at_once: int,
    restart_at: int | None,
) -> None:
    unbounded = ElsewhereWorld(10_000, **setting)
    tracks = [_make(unbounded, spec).speech for spec in specs]
    smallest = max(t.blocks_missing(len(t) + 1) if t is not None else 1 for t in tracks)
    world = ElsewhereWorld(smallest + num_spare_blocks, most_at_once=most_at_once, **setting)
    added = [world.add(_make(world, spec)) for spec in specs]
    if restart_at is not None:
        for _ in range(restart_at):
            world.step()
        world.scheduler.restart(added)
    world.drain()
    assert world.pool.num_free == world.cache.num_blocks
    assert len(set(world.asked)) == len(world.asked), "each prompt is sent once"
    for request in added:
        world.check_answer(request)


def _make(world: ElsewhereWorld, spec: dict[str, Any]) -> RequestState:
    speaks = spec["max_units"] is not None
    pictures = [picture(name) for name in spec["pictures"]]
    prompt = make_prompt(spec["words"], spec["units"], pictures, speaks=speaks)
    return world.make(
        prompt, max_tokens=spec["max_tokens"], max_units=spec["max_units"], ignore_eos=spec["ignore_eos"]
    )


def test_a_prompt_is_sent_once_it_was_heard() -> None:
    world = ElsewhereWorld(40, max_num_batched_tokens=4, mind=STEADY)
    request = world.add(world.make(make_prompt(units=[0] * 5, speaks=True), max_units=3))
    while not world.asked:
        assert request.speech is not None and request.speech.num_computed < request.num_speech_prompt
        assert not request.is_asked
        world.step()
    assert request.is_asked
    world.drain()
    world.check_answer(request)


def test_text_alone_takes_no_blocks_and_is_read_though_it_is_long() -> None:
    world = ElsewhereWorld(2, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(100), speaks=False), max_tokens=20))
    while not request.finished:
        world.step()
        assert world.pool.num_free == 2
    world.check_answer(request)


def test_the_llm_hears_that_a_request_has_ended() -> None:
    world = ElsewhereWorld(20, most_at_once=1, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(9), speaks=False), max_tokens=50))
    world.step()
    assert request in world.unsent
    world.abort(request)
    assert not world.unsent


def test_a_text_that_ends_early_elsewhere_ends_the_reply_with_length() -> None:
    world = ElsewhereWorld(20, most_at_once=50, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(9), speaks=False), max_tokens=50))
    world._text = lambda request: [10, 11]  # type: ignore[method-assign]
    world.drain()
    assert (request.text_ids, request.finish_reason) == ([10, 11], "length")
