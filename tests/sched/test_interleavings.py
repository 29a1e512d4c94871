"""Whatever comes together in whatever order: each request gets what it would get alone, and no block is lost.

One property drives block sizes, pools that are barely large enough, budgets, run-ahead, the prefix cache,
modes, arrivals and aborts together.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import make_prompt, picture
from fake_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_strategies import requests, settings_of_worlds

from antiphon.sched.request import RequestState

actions = st.one_of(
    st.tuples(st.just("add"), requests),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.just("abort"), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.none()),
)


@pytest.mark.slow
@settings(max_examples=250, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    setting=settings_of_worlds,
    first=st.lists(requests, min_size=1, max_size=4),
    todo=st.lists(actions, max_size=14),
    num_spare_blocks=st.sampled_from([0, 1, 2, 4, 9, 30]),
)
def test_each_gets_what_it_would_get_alone(
    setting: dict[str, Any],
    first: list[dict[str, Any]],
    todo: list[tuple[str, Any]],
    num_spare_blocks: int,
) -> None:
    """The pool holds the largest prompt, one position more of each track, and a few blocks."""
    todo = [*(("add", spec) for spec in first), *todo]
    unbounded = World(10_000, **setting)
    smallest = max(
        sum(t.blocks_missing(len(t) + 1) for t in (r.text, r.speech) if t is not None)
        for r in [_make(unbounded, spec) for name, spec in todo if name == "add"]
    )
    world = World(smallest + num_spare_blocks, **setting)
    survivors = []
    for name, what in todo:
        if name == "add":
            survivors.append(world.add(_make(world, what)))
        elif name == "step":
            for _ in range(what):
                world.step()
        elif name == "abort" and world.unfinished:
            request = world.unfinished[what % len(world.unfinished)]
            world.abort(request)
            survivors.remove(request)
        elif name == "forget":
            world.pool.reset_prefix_cache()
    world.drain()
    assert world.pool.num_free == world.cache.num_blocks
    assert len(world.scheduler._rows) == setting["max_num_seqs"]
    for request in survivors:
        world.check_answer(request)


def _make(world: World, spec: dict[str, Any]) -> RequestState:
    speaks = spec["max_units"] is not None
    pictures = [picture(name) for name in spec["pictures"]]
    prompt = make_prompt(spec["words"], spec["units"], pictures, speaks=speaks)
    return world.make(
        prompt, max_tokens=spec["max_tokens"], max_units=spec["max_units"], ignore_eos=spec["ignore_eos"]
    )
