"""One thread at a time, one process, and no copies."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC
from golden_cases import cases
from serving import Gate, assert_nothing_held, load, run

from antiphon import (
    AsyncEngine,
    AudioDelta,
    Completion,
    Engine,
    EngineBusy,
    EngineDead,
    Finished,
    InvalidRequest,
    Message,
    Request,
    RequestMetrics,
    SamplingParams,
    TextDelta,
    UnitDelta,
    Units,
)
from antiphon.codec import Codec

CASE = next(case for case in cases() if case.name == "s2s_short")
SHORT = SamplingParams(max_tokens=3)

CALLS: dict[str, Callable[[Engine], object]] = {
    "step": lambda engine: engine.step(),
    "generate": lambda engine: engine.generate(Request("Hello")),
    "add_request": lambda engine: engine.add_request(Request("Hello")),
    "open_request": lambda engine: engine.open_request(Request(Units([]))),
    "abort": lambda engine: engine.abort("nobody"),
    "update_speech": lambda engine: engine.update_speech("nobody", [1]),
    "commit": lambda engine: engine.commit("nobody"),
    "close": lambda engine: engine.close(),
    "AsyncEngine.from_engine": AsyncEngine.from_engine,
}


def test_a_second_thread_is_told_at_once_and_nothing_is_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, done = load(), list[Completion]()
    passes = Gate(monkeypatch, engine.runner, "run_text")
    thread = threading.Thread(target=lambda: done.extend(engine.generate([CASE.request()] * 2)), name="first")
    thread.start()
    while not passes.num_calls:
        pass
    for name, call in CALLS.items():
        with pytest.raises(EngineBusy, match=r"generate in thread first") as busy:
            call(engine)
        assert name.removesuffix("_request") in str(busy.value) or "add_prepared" in str(busy.value)
    assert engine.prepare(Request("Hello")).ids, "others may prepare"
    assert engine.has_unfinished()
    passes.open()
    thread.join()
    assert [CASE.differences(one) for one in done] == [[], []]
    # One after the other does no harm.
    assert CASE.differences(engine.generate(CASE.request())[0]) == []
    assert_nothing_held(engine)
    engine.close()


def test_threads_that_all_generate_get_their_own_or_are_told() -> None:
    engine, wrong = load(), list[object]()

    def ask() -> None:
        for _ in range(10):
            try:
                wrong.extend(
                    d for one in engine.generate([CASE.request()] * 2) if (d := CASE.differences(one))
                )
            except EngineBusy:
                continue
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_nothing_held(engine)
    engine.close()


def test_an_engine_that_was_taken_over_refuses_its_maker() -> None:
    engine = load()
    served = AsyncEngine.from_engine(engine)
    for call in CALLS.values():
        with pytest.raises(EngineBusy, match="an AsyncEngine has taken this engine over"):
            call(engine)
    assert CASE.differences(run(served.generate(CASE.request()))) == []
    served.close()
    for call in CALLS.values():
        if call is not CALLS["close"]:
            with pytest.raises((EngineBusy, EngineDead)):
                call(engine)


def test_a_tracer_that_asks_the_engine_is_refused() -> None:
    engine, refused = load(), list[BaseException]()

    def tracer(*_: Any) -> None:
        if not refused:
            with pytest.raises(EngineBusy) as busy:
                engine.step()
            refused.append(busy.value)

    engine.runner.tracer = tracer
    assert CASE.differences(engine.generate(CASE.request())[0]) == []
    assert refused
    engine.close()


def test_closing_twice_and_using_it_afterwards() -> None:
    with load() as engine:
        engine.add_request(Request("Hello"))
        engine.step()
        engine.close()
        engine.close()
    assert not engine.has_unfinished()
    assert not engine.abort("nobody")
    for name in ("step", "generate", "add_request", "open_request", "update_speech", "commit"):
        with pytest.raises(EngineDead, match="the engine is closed"):
            CALLS[name](engine)
    with pytest.raises(EngineDead):
        AsyncEngine.from_engine(engine)
    engine.close()


def test_an_engine_that_is_dropped_while_it_has_work_is_freed() -> None:
    engine = load()
    engine.add_request(Request("Hello"))
    engine.step()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_objects_of_one_process_refuse_to_be_pickled() -> None:
    engine = load()
    codec = Codec.from_pretrained(RANDOM_CODEC, "cpu")
    served = AsyncEngine.from_engine(load())
    things = [
        engine,
        served,
        served.stream(Request("Hello")),
        served.open(Request(Units([]))),
        codec,
        codec.stream(),
        codec.listen(16000),
    ]
    for thing in things:
        name = type(thing).__name__
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=f"{name} cannot be .* make a {name} in each process"):
                copied(thing)
    served.close()
    engine.close()


def test_requests_and_results_go_from_process_to_process() -> None:
    engine = load()
    request = Request(messages=[Message("user", Units([1, 2]))], sampling_params=SHORT)
    [done] = engine.generate(pickle.loads(pickle.dumps(request)))
    assert done.error is None
    same = pickle.loads(pickle.dumps(done))
    assert (same.text_ids, same.metrics) == (done.text_ids, done.metrics)
    samples = np.zeros(3, np.float32)
    for event in (
        TextDelta("a", "b", (1,)),
        UnitDelta("a", (1, 2)),
        RequestMetrics(ttft_s=1.0),
        SamplingParams(stop=["x"], seed=3),
        Completion("a", audio=None),
    ):
        assert pickle.loads(pickle.dumps(event)) == event
        assert copy.deepcopy(event) == event
    assert pickle.loads(pickle.dumps(AudioDelta("a", samples, 22050))).samples.tolist() == [0, 0, 0]
    assert pickle.loads(pickle.dumps(Finished("a", done))).completion.text == done.text
    for error in (InvalidRequest("no"), EngineDead("dead"), EngineBusy("busy")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    engine.close()
