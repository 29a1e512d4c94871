"""Whatever the engine does at the same time, and in whatever pieces, the results are the golden ones."""

from __future__ import annotations

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_capture import PlainCapture, recording

from antiphon import Completion, Engine, Finished

BLOCK_BYTES_PER_POSITION = (
    8 * 2 * 2 * 16 * 4
)  # of the packaged checkpoint: layers, k and v, heads, head_dim, float32

arrivals = st.lists(st.tuples(st.sampled_from(cases()), st.integers(0, 12)), min_size=1, max_size=7)


def run(engine: Engine, script: list[tuple[Case, int]]) -> list[tuple[Case, Completion]]:
    """Add each case after its number of engine steps; check the blocks after every step."""
    pending, named, done = list(script), {}, []
    while pending or engine.has_unfinished():
        while pending and pending[0][1] <= 0:
            case, _ = pending.pop(0)
            named[engine.add_request(case.request())] = case
        if pending:
            pending[0] = (pending[0][0], pending[0][1] - 1)
        finished = [event for event in engine.step() if isinstance(event, Finished)]
        done += [(named[event.request_id], event.completion) for event in finished]
        engine.check_integrity()
    return done


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=arrivals,
    block_size=st.integers(1, 64),
    max_num_batched_tokens=st.sampled_from([1, 2, 7, 33, 128, 2048]),
    text_lookahead=st.integers(0, 40),
    max_num_seqs=st.integers(1, 7),
    prefix_caching=st.booleans(),
    spare_positions=st.integers(0, 1500),
    is_recorded=st.booleans(),
    again=st.booleans(),
)
def test_any_schedule_gives_the_golden_results(
    script: list[tuple[Case, int]],
    block_size: int,
    max_num_batched_tokens: int,
    text_lookahead: int,
    max_num_seqs: int,
    prefix_caching: bool,
    spare_positions: int,
    is_recorded: bool,
    again: bool,
) -> None:
    # Room for the longest case alone (1625 text positions at half a block's bytes each, 270 + 96 of
    # speech) and a random amount more: often too little for all, so that requests are preempted.
    longest = -(-1640 // (2 * block_size)) + -(-400 // block_size) + 2
    num_blocks = longest + spare_positions // block_size
    with recording(PlainCapture() if is_recorded else None):
        engine = Engine(
            RANDOM_MODEL,
            block_size=block_size,
            max_num_batched_tokens=max_num_batched_tokens,
            text_lookahead=text_lookahead,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=prefix_caching,
            kv_cache_bytes=num_blocks * block_size * BLOCK_BYTES_PER_POSITION,
        )
    for _ in range(2 if again else 1):  # the second time with a hot cache
        for case, completion in run(engine, script):
            assert case.differences(completion) == [], case.name
    assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks


def test_preemption_happens_and_changes_nothing() -> None:
    """The property above would prove little if the cache were never short."""
    block_size = 4
    engine = Engine(
        RANDOM_MODEL, block_size=block_size, kv_cache_bytes=330 * block_size * BLOCK_BYTES_PER_POSITION
    )
    wanted = [case for case in cases() if "big" not in case.name]
    done = engine.generate([case.request() for case in wanted])
    assert sum(completion.metrics.num_preemptions for completion in done) > 0
    assert {c.name: c.differences(d) for c, d in zip(wanted, done, strict=True)} == {
        c.name: [] for c in wanted
    }


def test_a_hot_prefix_cache_is_used() -> None:
    engine = Engine(RANDOM_MODEL, block_size=4)
    case = next(case for case in cases() if case.name == "s2s_image")
    first, second = engine.generate(case.request()), engine.generate(case.request())
    assert first[0].metrics.num_cached_tokens == 0
    assert second[0].metrics.num_cached_tokens >= second[0].metrics.num_prompt_tokens - 4
    assert case.differences(second[0]) == []
    engine.reset_prefix_cache()
    (third,) = engine.generate(case.request())
    assert third.metrics.num_cached_tokens == 0
    assert case.differences(third) == []
