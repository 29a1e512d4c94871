"""Ctrl-C, and other signals whose handlers raise, at any moment: the engine lives on and holds nothing."""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import cases
from serving import assert_nothing_held, load

from antiphon import Completion, Engine, EngineBusy, Event, Finished, Request, SamplingParams, Units

CASES = cases()[:8]
LONG = SamplingParams(max_tokens=3000, max_units=3000, ignore_eos=True)
SPOKEN = ("text", "audio")


class TooLong(Exception):
    """What a user's SIGALRM handler raises."""


@pytest.fixture
def alarms() -> Iterator[None]:
    # What a handler raises inside a destructor is lost, and the call goes on. Other tests have left objects
    # that have one, and the collector may run between the alarm's setting and the call.
    gc.collect()
    gc.disable()

    def handler(_: int, frame: FrameType | None) -> None:
        # Shown if the test fails: where the exception was raised that did not come out.
        sys.stderr.write("an alarm\n" + "".join(traceback.format_stack(frame, limit=12)))
        raise TooLong

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.enable()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load()


def alarmed(i: int, call: Callable[[], object]) -> None:
    """Make a call with an alarm during it or just before it; the alarm comes later with each i."""
    signal.setitimer(signal.ITIMER_REAL, 0.0003 * 1.18**i)
    call()


def finished(engine: Engine, events: list[Event]) -> dict[str, Completion]:
    while engine.has_unfinished():
        events += engine.step()
    return {event.request_id: event.completion for event in events if isinstance(event, Finished)}


def assert_well(engine: Engine) -> None:
    done = engine.generate([case.request() for case in CASES[:3]])
    assert [case.differences(one) for case, one in zip(CASES, done, strict=False)] == [[]] * 3
    assert_nothing_held(engine)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("alarms")
def test_generate_is_interrupted_at_any_moment(engine: Engine) -> None:
    """Requests that were added before go on, to the same end."""
    mine = {engine.add_request(case.request()): case for case in CASES[:2]}
    requests = [case.request() for case in CASES] * 2
    for i in range(40):
        with pytest.raises(TooLong):
            alarmed(i, partial(engine.generate, requests, LONG))
        engine.check_integrity()
    done = finished(engine, [])
    assert done.keys() == mine.keys()
    assert [case.differences(done[name]) for name, case in mine.items()] == [[], []]
    assert_well(engine)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("alarms")
def test_steps_are_interrupted_at_any_moment(engine: Engine) -> None:
    """Each request's end is told exactly once; those in an interrupted step are aborted."""
    for i in range(40):
        events: list[Event] = []
        ids = [engine.add_request(case.request(), LONG) for case in CASES]
        with pytest.raises(TooLong):
            alarmed(i, partial(finished, engine, events))
        for name in ids:  # it may have come between two steps
            engine.abort(name)
        assert_nothing_held(engine)
        done = finished(engine, events)
        assert sorted(done) == sorted(ids)
        assert {one.finish_reason for one in done.values()} == {"abort"}
    assert_well(engine)


def test_ctrl_c_in_a_step_aborts_its_requests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    name = engine.add_request(Request("Hello"), LONG)
    waiting = engine.open_request(Request(Units([1]), SPOKEN))
    run_text = engine.runner.run_text

    def pressed(plan: Any) -> list[int]:
        signal.raise_signal(signal.SIGINT)
        return run_text(plan)

    engine.step()
    monkeypatch.setattr(engine.runner, "run_text", pressed)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    assert_nothing_held(engine)
    assert engine.has_unfinished(), "there is something to tell"
    ends = {e.request_id: e.completion for e in engine.step() if isinstance(e, Finished)}
    assert {key: one.finish_reason for key, one in ends.items()} == {name: "abort", waiting: "abort"}
    assert_well(engine)


def test_ctrl_c_while_files_are_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    process, calls = engine.inputs.process, []

    def pressed(request: Request) -> Any:
        calls.append(request)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
            calls.append("never reached")  # type: ignore[arg-type]
        return process(request)

    monkeypatch.setattr(engine.inputs, "process", pressed)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([case.request() for case in CASES])
    assert len(calls) == 3
    monkeypatch.undo()
    assert_well(engine)


def test_a_handler_that_asks_the_engine_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run_text, refused = engine.runner.run_text, []

    def handler(_: int, __: FrameType | None) -> None:
        try:
            engine.generate(Request("Hello"))
        except EngineBusy as error:
            refused.append(str(error))

    def pressed(plan: Any) -> list[int]:
        if not refused:
            signal.raise_signal(signal.SIGUSR1)
        return run_text(plan)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(engine.runner, "run_text", pressed)
        assert_well(engine)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("alarms")
def test_speech_is_interrupted_wherever_it_is() -> None:
    """While units come, and while their audio is made."""
    engine = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, kv_cache_bytes=32 << 20)
    request, params = Request("Hello", SPOKEN), SamplingParams(max_units=40, ignore_eos=True, seed=1)
    [whole] = engine.generate(request, params)
    assert whole.metrics.e2e_s is not None
    num_interrupted = 0
    for part in (0.2, 0.6, 0.8, 0.95):
        signal.setitimer(signal.ITIMER_REAL, whole.metrics.e2e_s * part)
        try:
            engine.generate(request, params)
        except TooLong:
            num_interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not engine.has_unfinished()
        assert_nothing_held(engine)
    assert num_interrupted
    [again] = engine.generate(request, params)
    assert again.units == whole.units
    assert again.audio is not None
    assert whole.audio is not None
    assert again.audio.tobytes() == whole.audio.tobytes()
    engine.close()
