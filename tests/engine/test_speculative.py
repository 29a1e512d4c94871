"""Requests for which nobody waits yet: their results, their costs, and their times once confirmed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import cases
from serving import assert_nothing_held, load

from antiphon import Completion, Engine, EngineDead, Finished, Request, SamplingParams, Units
from antiphon.errors import InvalidRequest
from antiphon.sched.plan import StackPlan

AUDIO = ("text", "audio")
GUESS = Request("Hello", is_speculative=True, sampling_params=SamplingParams(max_tokens=6))


def finish(engine: Engine) -> dict[str, Completion]:
    done = {}
    while engine.has_unfinished():
        for event in engine.step():
            if isinstance(event, Finished):
                done[event.request_id] = event.completion
        engine.check_integrity()
    return done


@pytest.mark.parametrize("settings", [{}, {"block_size": 4, "max_num_seqs": 3}], ids=["roomy", "tight"])
def test_results_are_those_of_ordinary_requests(settings: dict[str, Any]) -> None:
    """Every other one is speculative; some of these are confirmed in between."""
    engine = load(**settings)
    kept: list[int] | None = None
    if settings:  # a quarter of the cases fits at a time
        needed = [len(engine.prepare(case.request()).ids) + 200 for case in cases()]
        kept = engine.scheduler.pool.allocate(max(0, engine.scheduler.pool.num_free - max(needed) // 2))
    named = {}
    for i, case in enumerate(cases()):
        named[engine.add_request(replace(case.request(), is_speculative=i % 2 == 0))] = case
    done: dict[str, Completion] = {}
    for name in list(named)[::4]:
        for event in engine.step():
            if isinstance(event, Finished):
                done[event.request_id] = event.completion
        engine.confirm(name)
    while engine.has_unfinished():
        for event in engine.step():
            if isinstance(event, Finished):
                done[event.request_id] = event.completion
    for name, case in named.items():
        assert case.differences(done[name]) == [], case.name
    if settings:
        assert any(completion.metrics.num_preemptions for completion in done.values())
        assert kept is not None
        engine.scheduler.pool.free(kept)
    assert_nothing_held(engine)


def test_generate_answers_them() -> None:
    engine = load()
    ordinary, guess = engine.generate([replace(GUESS, is_speculative=False), GUESS])
    assert guess.text_ids == ordinary.text_ids


@pytest.mark.parametrize("modalities", [("text",), AUDIO])
def test_the_prompt_of_its_user_is_computed_already(modalities: tuple[str, ...]) -> None:
    """Each track computes the unfinished block and the end of the message."""
    engine = load(block_size=8)
    units = [i % 60 for i in range(150)]
    user = engine.open_request(Request(Units([]), modalities))
    for n in (40, 90, 150):
        engine.update_speech(user, units[:n])
        finish(engine)
    computed = {"bottom": 0, "text": 0, "top": 0}
    for stack in computed:
        plan = getattr(engine.scheduler, f"schedule_{stack}")

        def counted(stack: str = stack, plan: Any = plan) -> StackPlan:
            made: StackPlan = plan()
            for chunk in made.chunks:
                assert chunk.request.request_id == "guess", "its user has nothing to compute"
                end = chunk.request.num_text_prompt
                computed[stack] += min(chunk.end, end) - min(chunk.start, end)
            return made

        setattr(engine.scheduler, f"schedule_{stack}", counted)
    params = SamplingParams(max_tokens=4, max_units=4)
    guess = Request(Units(units), modalities, request_id="guess", is_speculative=True)
    engine.add_request(guess, params)
    done = finish(engine)["guess"]
    closing = (
        len(engine.prepare(guess).ids) - len(engine.prepare(Request(Units([])), is_growing=True).ids) - 150
    )
    longest = max(engine.cache_config.text_block_size, engine.cache_config.speech_block_size)
    assert 0 < max(computed.values()) < longest + closing
    assert done.metrics.num_cached_tokens > 100
    assert (
        load(block_size=8).generate(replace(guess, is_speculative=False), params)[0].text_ids == done.text_ids
    )


# --- confirming ---------------------------------------------------------------------------------------


def times(done: Completion) -> list[float]:
    metrics = done.metrics
    found = [
        metrics.ttft_s,
        metrics.ttfu_s,
        metrics.ttfa_s,
        metrics.tpot_s,
        metrics.e2e_s,
        metrics.underrun_s,
    ]
    assert None not in found
    return [value for value in found if value is not None]


@pytest.fixture(scope="module")
def speaker() -> Engine:
    return Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", kv_cache_bytes=32 << 20)


SPOKEN = Request(Units([1, 2, 3]), AUDIO, is_speculative=True, sampling_params=SamplingParams(max_units=80))


def test_times_count_from_the_confirmation(speaker: Engine) -> None:
    """What had happened by then took no time."""
    name = speaker.add_request(SPOKEN)
    output = speaker._replies.outputs[name]
    while len(output._audio) < 2:
        speaker.step()
    before = output._metrics.ttfa_s
    assert before is not None and before > 0
    assert speaker.confirm(name)
    assert not output.request.is_speculative
    done = finish(speaker)[name]
    ttft, ttfu, ttfa, tpot, e2e, underrun = times(done)
    assert ttft == ttfu == ttfa == 0
    assert 0 <= tpot * 79 <= e2e
    assert 0 <= underrun <= e2e
    assert done.metrics.audio_s is not None and done.metrics.rtf is not None
    assert done.audio is not None
    assert done.metrics.audio_s == pytest.approx(len(done.audio) / speaker.codec.sample_rate_hz)  # type: ignore[union-attr]
    assert 0 <= done.metrics.rtf <= e2e / done.metrics.audio_s


def test_the_wait_may_have_begun_before_or_after(speaker: Engine) -> None:
    for shift_s in (-1000.0, 1000.0):
        name = speaker.add_request(SPOKEN)
        output = speaker._replies.outputs[name]
        while not output._audio:
            speaker.step()
        now = time.perf_counter()
        if now + shift_s < 0:
            shift_s = -now
        assert speaker.confirm(name, confirmed_s=now + shift_s)
        done = finish(speaker)[name]
        found = times(done)
        assert min(found) >= 0
        if shift_s < 0:
            assert min(found[:3]) > -shift_s - 60
            assert found[0] <= found[1] <= found[2] <= found[4]
        else:
            assert found[:3] == [0, 0, 0]
            assert found[4] < 100


def test_an_ordinary_request_stays_as_it_is() -> None:
    engine = load()
    name = engine.add_request(replace(GUESS, is_speculative=False))
    engine.step()
    added_s = engine._replies.outputs[name]._added_s
    assert engine.confirm(name)
    assert engine._replies.outputs[name]._added_s == added_s
    opened = engine.open_request(Request(Units([1])))
    assert engine.confirm(opened)
    engine.abort(opened)
    finish(engine)


def test_what_does_not_exist_is_not_confirmed() -> None:
    engine = load()
    assert not engine.confirm("nobody")
    name = engine.add_request(GUESS)
    assert engine.has_unfinished()
    finish(engine)
    assert not engine.confirm(name)
    for wrong in (-1, float("nan"), "soon"):
        with pytest.raises(InvalidRequest, match="confirmed_s: expected a number"):
            engine.confirm(name, confirmed_s=wrong)  # type: ignore[arg-type]
    engine.close()
    with pytest.raises(EngineDead):
        engine.confirm(name)


def test_what_is_refused() -> None:
    engine = load()
    with pytest.raises(InvalidRequest, match="is_speculative: a request whose user still speaks"):
        engine.open_request(Request(Units([]), is_speculative=True))
    with pytest.raises(InvalidRequest, match="is_speculative"):
        engine.add_request(Request("Hello", is_speculative="yes"))  # type: ignore[arg-type]
    assert_nothing_held(engine)
