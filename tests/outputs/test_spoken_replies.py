"""The speech worker in an engine: what its events tell of sound."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from speaking import LONG_S, Gate, no_threads, raises_once, units_of

from antiphon import (
    AudioDelta,
    Engine,
    Event,
    Finished,
    Request,
    SamplingParams,
    UnitDelta,
    Units,
)
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.errors import InvalidRequest
from antiphon.outputs.request_output import OutputState

SPEAKS = Request("Hello", modalities=("text", "audio"))


@pytest.fixture
def engine(codec: Codec) -> Iterator[Engine]:
    from checkpoints import RANDOM_MODEL

    with Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False) as engine:
        yield engine


def run(engine: Engine, until: Callable[[Any], bool] = lambda event: False) -> list[Any]:
    events: list[Any] = []
    while engine.has_unfinished():
        new = engine.step()
        events += new
        engine.check_integrity()
        if any(until(event) for event in new):
            break
    return events


@pytest.mark.slow
def test_sound_comes_while_units_are_generated(engine: Engine) -> None:
    engine.add_request(SPEAKS, SamplingParams(max_units=200, ignore_eos=True))
    count = 0
    while count < 20:
        count += sum(len(event.units) for event in engine.step() if isinstance(event, UnitDelta))
    worker = engine.speech_worker
    assert worker is not None
    with worker._news:
        assert worker._news.wait_for(lambda: worker._spoken, LONG_S)
    assert any(isinstance(event, AudioDelta) for event in engine.step())
    assert engine.scheduler.running, "and it has not ended"
    events = run(engine)
    assert isinstance(events[-1], Finished)
    metrics = events[-1].completion.metrics
    assert metrics.ttfa_s is not None and metrics.e2e_s is not None
    assert metrics.ttfa_s < metrics.e2e_s


@pytest.mark.slow
def test_streamed_audio_is_the_codecs_stream(engine: Engine, codec: Codec) -> None:
    engine.add_request(SPEAKS, SamplingParams(max_units=90, seed=5, ignore_eos=True))
    events = run(engine)
    done = events[-1].completion
    assert np.array_equal(
        done.audio, np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])
    )
    assert np.array_equal(done.audio, codec.stream(seed=5).push(done.units, final=True))
    [whole] = engine.generate([SPEAKS], SamplingParams(max_units=90, seed=5, ignore_eos=True))
    assert whole.audio is not None
    assert np.array_equal(whole.audio, codec.decode([done.units], seeds=[5])[0])
    assert len(whole.audio) == len(done.audio)


def test_speech_that_fails_ends_its_request_alone(
    engine: Engine, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    voiced = Request("Hello", modalities=("text", "audio"), voice="中文男")
    params = SamplingParams(max_units=60, ignore_eos=True)
    expected = engine.generate([SPEAKS], params)[0]
    broken = codec._voices.get("中文男").embedding
    generate = codec.decoder.flow.generate

    def breaking(inputs: list[FlowInput]) -> Any:
        if any(torch.equal(row.embedding, broken) for row in inputs):
            raise MemoryError("too much")
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", breaking)
    bad, good = engine.generate([voiced, SPEAKS], params)
    assert (bad.finish_reason, bad.error, bad.audio) == ("error", "speech: MemoryError: too much", None)
    assert good.finish_reason == expected.finish_reason
    assert good.units == expected.units
    streamed = engine.add_request(voiced, SamplingParams(max_units=2000, ignore_eos=True))
    [end] = [event for event in run(engine) if isinstance(event, Finished)]
    assert (end.request_id, end.completion.finish_reason) == (streamed, "error")
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_abort_while_speech_is_made(engine: Engine, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is done with it, its blocks are free, and its sound is still to come: then it is aborted."""
    gate = Gate(codec, monkeypatch)
    request_id = engine.add_request(SPEAKS, SamplingParams(max_units=40, ignore_eos=True))
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.step()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    assert engine.step() == [], "it waits for its sound"
    assert engine.has_unfinished()
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add_request(Request("Hi", request_id=request_id))
    assert engine.abort(request_id)
    [end] = engine.step()
    assert isinstance(end, Finished)
    assert (end.completion.finish_reason, end.completion.audio) == ("abort", None)
    assert len(end.completion.units) == 40
    assert not engine.has_unfinished()
    assert not engine.abort(request_id)
    gate.is_open.set()


@pytest.mark.slow
def test_speech_does_not_pile_up(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who will speak waits while as many as run at a time have yet to be heard; who only writes does not."""
    from checkpoints import RANDOM_MODEL

    gate = Gate(codec, monkeypatch)
    params = SamplingParams(max_units=16, ignore_eos=True)
    with Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False, max_num_seqs=2) as engine:
        for _ in range(5):
            engine.add_request(SPEAKS, params)
        while len(engine._replies.awaiting_audio) < 2 or engine.scheduler.running:
            engine.step()
        worker = engine.speech_worker
        assert worker is not None
        poll, waits = worker.poll, []

        def noted(timeout_s: float = 0.0) -> Any:
            waits.append(timeout_s)
            return poll(timeout_s)

        monkeypatch.setattr(worker, "poll", noted)
        for _ in range(5):
            assert engine.step() == []
        assert len(engine.scheduler.waiting) >= 1
        assert min(waits) > 0, "a step with nothing to compute gives the cores to the worker"
        written = engine.add_request(Request("Hello", modalities=("text",)), SamplingParams(max_tokens=3))
        before = list(engine.scheduler.waiting)[:-1]
        events: list[Event] = []
        while not any(isinstance(event, Finished) for event in events):
            events += engine.step()
        assert {event.request_id for event in events} == {written}
        assert list(engine.scheduler.waiting) == before
        gate.is_open.set()
        assert sum(isinstance(event, Finished) for event in run(engine)) == 5


@pytest.mark.slow
@pytest.mark.long
def test_a_prompt_that_grew_is_answered_with_the_same_speech(engine: Engine) -> None:
    units, params = units_of(40, 3), SamplingParams(max_units=60, seed=5, ignore_eos=True)
    engine.add_request(Request(Units(units), modalities=("text", "audio")), params)
    expected = run(engine)[-1].completion
    request_id = engine.open_request(Request(Units([]), modalities=("text", "audio")), params)
    for heard in (units[:10], [*units[:17], 1, 2], units[:30]):
        engine.update_speech(request_id, heard)
        events = run(engine)
        assert not any(isinstance(event, (UnitDelta, AudioDelta)) for event in events), (
            "its user still speaks"
        )
    engine.commit(request_id, units)
    done = run(engine)[-1].completion
    assert (done.units, done.text, done.transcript) == (expected.units, expected.text, expected.transcript)
    assert np.array_equal(done.audio, expected.audio)
    engine.open_request(
        Request(Units([]), modalities=("text", "audio")), params
    )  # left open: no thread stays
    engine.close()


def test_underrun_is_what_a_listener_waits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("antiphon.outputs.request_output.time.perf_counter", lambda: clock[0])
    engine.add_request(SPEAKS)
    state = engine.scheduler.waiting[-1]
    output = OutputState(state, engine.tokenizer, engine.model_config, sample_rate_hz=1000)
    for at, seconds in ((101.0, 1.0), (101.5, 1.0), (103.25, 2.0), (106.0, 1.0)):
        clock[0] = at
        output.add_audio(np.zeros(int(1000 * seconds), np.float32))
    # played 101 to 103, a gap of 0.25, 103.25 to 105.25, a gap of 0.75, 106 to 107
    metrics = output.completion().metrics
    assert metrics.underrun_s == pytest.approx(1.0)
    assert (metrics.ttfa_s, metrics.audio_s, metrics.rtf) == (1.0, 5.0, 6.0 / 5.0)


def test_an_engine_that_cannot_speak_any_more_still_writes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_units=40, max_tokens=40, ignore_eos=True)
    assert engine.speech_worker is not None
    with monkeypatch.context() as patch:
        no_threads(patch, "antiphon-speech")
        spoken, written = engine.generate([SPEAKS, Request("Hello")], params)
        assert (spoken.finish_reason, written.finish_reason) == ("error", "length")
        assert spoken.error == "speech: no thread can be started: RuntimeError: can't start new thread"
    [again] = engine.generate(SPEAKS, params)
    assert again.audio is not None
    raises_once(monkeypatch, engine.speech_worker, "_batch", MemoryError(), 2)
    [again] = engine.generate(SPEAKS, params)
    assert again.audio is not None


def test_a_dropped_engine_leaves_no_thread(codec: Codec) -> None:
    from checkpoints import RANDOM_MODEL

    engine = Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False)
    engine.add_request(SPEAKS)
    worker = engine.speech_worker
    assert worker is not None
    (thread,) = worker._threads
    del engine
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()
