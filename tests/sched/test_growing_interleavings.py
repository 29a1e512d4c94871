"""Whatever users say, take back and leave open, and whatever comes between: each request gets what it would
get if everything had been said at once, and open requests hold nobody up."""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import FIRST_UNIT, make_prompt, picture
from growing_world import GrowingWorld, open_prompt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_strategies import requests, settings_of_worlds

from antiphon.sched.request import RequestState

units: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 1), min_size=3, max_size=14) | st.just([])
opened = st.fixed_dictionaries(
    {
        "ids": st.lists(st.integers(20, 21), max_size=5),
        "units": units,
        "pictures": st.lists(st.sampled_from("ab"), max_size=2),
        "max_tokens": st.sampled_from([1, 4, 40]),
        "max_units": st.sampled_from([None, 1, 8, 40]),
    }
)
# Which request; how many units are taken back from its end, and what comes instead; how many steps follow
# (None: until nothing is left to do).
updates = st.tuples(
    st.integers(0, 2),
    st.sampled_from([1, 2, 3, 4, 6, 9, 0]),
    st.lists(st.integers(0, 1), max_size=9),
    st.sampled_from([None, 3, 1, 9, 0]),
)
rarely = st.one_of(
    st.tuples(st.just("open"), opened),
    st.tuples(st.just("add"), requests),
    st.tuples(st.just("commit"), st.integers(0, 9)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("abort"), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.none()),
)
often = st.tuples(st.just("update"), updates)
actions = st.sampled_from([often, often, often, often, rarely]).flatmap(lambda strategy: strategy)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    setting=settings_of_worlds,
    first=st.lists(opened, min_size=1, max_size=3),
    todo=st.lists(actions, min_size=8, max_size=24),
    num_spare_blocks=st.sampled_from([0, 1, 2, 4, 9, 30]),
)
def test_each_gets_what_it_would_get_at_once(
    setting: dict[str, Any], first: list[dict[str, Any]], todo: list[tuple[str, Any]], num_spare_blocks: int
) -> None:
    todo = [*(("open", spec) for spec in first), *todo]
    unbounded = GrowingWorld(10_000, **setting)
    made = [_make(unbounded, spec) for name, spec in todo if name in ("open", "add")]
    smallest = max(
        sum(t.blocks_missing(len(t) + 3) for t in (r.text, r.speech) if t is not None) for r in made
    )
    world = GrowingWorld(smallest + num_spare_blocks, **setting)
    survivors: list[RequestState] = []

    def still_open(index: int) -> list[RequestState]:
        found = [request for request in survivors if request.is_growing]
        return [found[index % len(found)]] if found else []

    def commit(request: RequestState) -> None:
        if not request.unit_positions:
            assert world.update_speech(request, [1]), "there is room for a unit"
        world.commit(request)

    for name, what in todo:
        match name:
            case "open" | "add":
                survivors.append(world.add(_make(world, what)))
            case "update":
                index, num_back, new, num_steps = what
                for request in still_open(index):
                    heard = [i - FIRST_UNIT for i in request.speech_ids if i >= FIRST_UNIT]
                    world.update_speech(request, heard[: max(0, len(heard) - num_back)] + new)
                if num_steps is None:
                    world.settle()
                for _ in range(num_steps or 0):
                    world.step()
            case "commit":
                for request in still_open(what):
                    commit(request)
            case "step":
                for _ in range(what):
                    world.step()
            case "abort" if world.unfinished:
                request = world.unfinished[what % len(world.unfinished)]
                world.abort(request)
                survivors.remove(request)
            case "forget":
                world.pool.reset_prefix_cache()
    world.settle()
    for request in survivors:
        if request.is_growing:
            commit(request)
    world.settle()
    assert not world.unfinished
    assert world.pool.num_free == world.cache.num_blocks
    assert len(world.scheduler._rows) == setting["max_num_seqs"]
    for request in survivors:
        world.check_answer(request)


def _make(world: GrowingWorld, spec: dict[str, Any]) -> RequestState:
    spec = dict(spec)
    speaks = spec["max_units"] is not None
    pictures = [picture(name) for name in spec.pop("pictures")]
    if "words" in spec:
        prompt = make_prompt(spec.pop("words"), spec.pop("units"), pictures, speaks=speaks)
        return world.make(prompt, **spec)
    return world.make(open_prompt(spec.pop("ids"), spec.pop("units"), pictures), **spec)
