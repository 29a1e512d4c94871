"""The engine behind asyncio, on the packaged checkpoint."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import Case, cases
from serving import Gate, assert_nothing_held, check_events, collect, load, run, serving

from antiphon import (
    AsyncEngine,
    AudioDelta,
    Completion,
    Engine,
    EngineDead,
    EngineOverloaded,
    Event,
    Finished,
    Image,
    InvalidRequest,
    Request,
    SamplingParams,
    Units,
)
from antiphon.aio.engine_thread import NUM_PREPARE_THREADS, EngineThread
from antiphon.aio.event_stream import EventStream
from antiphon.aio.mailbox import MAX_PENDING_EVENTS
from antiphon.prompt import Prompt


def repr_type(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value).rpartition(".")[2]


LONG = SamplingParams(max_tokens=2000, ignore_eos=True)
SHORT = SamplingParams(max_tokens=4)


# --- results --------------------------------------------------------------------------------------


def test_all_golden_requests_at_once() -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            streams = [served.stream(case.request(case.name)) for case in cases()]
            for case, events in zip(cases(), await asyncio.gather(*map(collect, streams)), strict=True):
                done = check_events(events)
                assert (done.request_id, case.differences(done)) == (case.name, [])
            assert served.health().num_running == served.health().num_waiting == 0
        assert_nothing_held(engine)

    run(main())


@pytest.mark.slow
def test_sound_and_events_are_those_of_the_engine() -> None:
    """A reader that keeps up sees each event as `step` tells it."""
    settings: dict[str, Any] = {"codec": RANDOM_CODEC, "device": "cpu", "kv_cache_bytes": 32 << 20}
    request = Request([Units([3, 1, 4, 1, 5])], modalities=("text", "audio"))
    params = SamplingParams(max_units=4)
    with Engine(RANDOM_MODEL, **settings) as engine:
        engine.add_request(request, params)
        expected = []
        while engine.has_unfinished():
            expected += engine.step()

    async def main() -> list[Event]:
        async with AsyncEngine(RANDOM_MODEL, **settings) as served:
            return await collect(served.stream(request, params))

    events = run(main())
    assert [type(event) for event in events] == [type(event) for event in expected]
    done, wanted = check_events(events), check_events(expected)
    assert (done.text_ids, done.unit_ids) == (wanted.text_ids, wanted.unit_ids)
    samples = np.concatenate([event.samples for event in events if isinstance(event, AudioDelta)])
    assert done.audio is not None
    assert wanted.audio is not None
    np.testing.assert_array_equal(samples, done.audio)
    np.testing.assert_array_equal(samples, wanted.audio)


def test_generate_and_parameters() -> None:
    async def main() -> None:
        async with AsyncEngine.from_engine(load()) as served:
            own = SamplingParams(max_tokens=3)
            assert len((await served.generate(Request("Hello", sampling_params=own))).text_ids) == 3
            assert len((await served.generate(Request("Hello", sampling_params=own), SHORT)).text_ids) == 4

    run(main())


def test_times_count_from_before_the_request_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    before: list[str] = []
    ages: list[float] = []
    prepare, add_prepared = engine.prepare, engine.add_prepared

    def noted(request: Request, **options: bool) -> Prompt:
        before.append("prepare")
        return prepare(request, **options)

    def aged(*arguments: Any, arrived_s: float) -> str:
        ages.append(arrived_s)
        return add_prepared(*arguments, arrived_s=arrived_s - 1000)

    monkeypatch.setattr(engine, "prepare", noted)
    monkeypatch.setattr(engine, "add_prepared", aged)

    async def main() -> Completion:
        async with AsyncEngine.from_engine(engine) as served:
            return await served.generate(Request("Hello"), SHORT)

    metrics = run(main()).metrics
    assert before == ["prepare"]
    assert len(ages) == 1
    assert metrics.ttft_s is not None
    assert metrics.e2e_s is not None
    assert 1000 < metrics.ttft_s < metrics.e2e_s


# --- leaving --------------------------------------------------------------------------------------


async def leave_by_break(start: Callable[[], EventStream]) -> None:
    async for _ in start():
        break


async def leave_by_error(start: Callable[[], EventStream]) -> None:
    async def reader() -> None:
        async for _ in start():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await reader()


async def leave_by_aclose(start: Callable[[], EventStream]) -> None:
    stream = start()
    await anext(stream)
    await stream.aclose()
    assert [event async for event in stream] == []


async def leave_by_cancellation(start: Callable[[], EventStream]) -> None:
    told = asyncio.Event()

    async def reader() -> None:
        async for _ in start():  # more events than the gate lets through
            told.set()

    task = asyncio.create_task(reader())
    await told.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("modalities", [("text",), ("text", "audio")], ids=["text", "speech"])
@pytest.mark.parametrize(
    "leave",
    [leave_by_break, leave_by_error, leave_by_aclose, leave_by_cancellation],
    ids=lambda leave: leave.__name__,
)
def test_leaving_aborts_the_request_and_frees_all_blocks(
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[Callable[[], EventStream]], Awaitable[None]],
    modalities: tuple[str, ...],
) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "step")
    request = Request("Hello", modalities=modalities, request_id="a")

    async def main() -> None:
        async with serving(engine, gate) as served:
            gate.allow(12)
            await leave(lambda: served.stream(request, LONG))
            gate.allow(12)  # it may be inside a step
            assert not await served.abort("a"), "leaving had aborted it: that command came first"
            assert_nothing_held(engine)
            gate.open()
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"

    run(main())


def test_an_id_is_free_again_once_its_stream_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The aborted request's `Finished` is told by the next step; it used to go to the new one."""
    engine = load()
    case = next(case for case in cases() if case.name == "t2t")
    gate = Gate(monkeypatch, engine, "step")

    async def main() -> None:
        async with serving(engine, gate) as served:
            first = served.stream(Request("Hello", request_id="a"), LONG)
            await gate.allow_until(asyncio.ensure_future(anext(first)))
            await gate.reached()
            await first.aclose()
            second = asyncio.create_task(collect(served.stream(case.request("a"))))
            while served._thread._inbox.qsize() < 2:  # found together, after the step that is held
                await asyncio.sleep(0)
            gate.open()
            assert case.differences(check_events(await second)) == []

    run(main())
    assert_nothing_held(engine)


def test_leaving_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "prepare")

    async def main() -> None:
        async with serving(engine, gate) as served:
            tasks = [asyncio.create_task(served.generate(Request("Hello"), LONG)) for _ in range(20)]
            while served.health().num_waiting < len(tasks):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            assert {type(e) for e in await asyncio.gather(*tasks, return_exceptions=True)} == {
                asyncio.CancelledError
            }
            gate.open()
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"
            while served.health().num_waiting:  # others that were being read
                await asyncio.sleep(0)
            assert gate.num_calls <= NUM_PREPARE_THREADS + 1, "requests that nobody waits for are not read"
            assert_nothing_held(engine)

    run(main())


# --- abort ----------------------------------------------------------------------------------------


def test_abort_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "step")

    async def main() -> None:
        async with serving(engine, gate) as served:
            gate.allow(5)
            stream = served.stream(Request("Hello", request_id="a"), LONG)
            first = await anext(stream)
            gate.open()
            assert await served.abort("a")
            done = check_events([first, *await collect(stream)])
            assert done.finish_reason == "abort"
            assert 0 < len(done.text_ids) < 2000
            assert not await served.abort("a")
            assert_nothing_held(engine)
            with pytest.raises(InvalidRequest, match="expected a string, got list"):
                await served.abort(["a"])  # type: ignore[arg-type]

    run(main())


def test_abort_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "prepare")

    async def main() -> None:
        async with serving(engine, gate) as served:
            reader = asyncio.create_task(collect(served.stream(Request("Hello", request_id="a"), LONG)))
            while not served.health().num_waiting:
                await asyncio.sleep(0)
            assert await served.abort("a")
            assert check_events(await reader).finish_reason == "abort"
            assert not await served.abort("a")
            gate.open()
            assert (await served.generate(Request("Hello", request_id="a"), SHORT)).finish_reason == "length"

    run(main())
    assert_nothing_held(engine)


# --- wrong requests -------------------------------------------------------------------------------


BAD: list[tuple[Any, Any, str]] = [
    ("Hello", None, "request: expected a Request, got str"),
    (Request("Hello"), {"max_tokens": 3}, "sampling_params: expected SamplingParams or None, got dict"),
    (Request(""), None, "content: expected content"),
    (Request([Units([1, 64])]), None, "expected unit numbers from 0 to 63, got 64"),
    (Request([Image(b"no picture"), "?"]), None, r"content\[0\]"),
    (Request("Hello", request_id=["a"]), None, "request_id: expected a string"),  # type: ignore[arg-type]
    (Request("Hello", modalities=("text", "audio")), SamplingParams(stop="."), "stop strings"),
    (Request("so many words " * 5000), None, "max_model_len|does not fit"),
]


@pytest.mark.parametrize(("request_", "params", "message"), BAD, ids=[message for _, _, message in BAD])
def test_a_bad_request_fails_alone(request_: Any, params: Any, message: str) -> None:
    engine = load(max_model_len=4096)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            good = asyncio.create_task(served.generate(Request("Hello"), SHORT))
            stream = served.stream(request_, params)
            with pytest.raises(InvalidRequest, match=message):
                await anext(stream)
            assert [event async for event in stream] == []
            assert (await good).finish_reason == "length"
            assert served.health().alive

    run(main())
    assert_nothing_held(engine)


def test_an_id_in_use_is_refused_and_its_owner_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    case = next(case for case in cases() if case.name == "s2s_short")
    gate = Gate(monkeypatch, engine, "step")

    async def main() -> None:
        async with serving(engine, gate) as served:
            gate.allow(8)
            stream = served.stream(case.request("a"))
            first = await anext(stream)
            second = asyncio.create_task(served.generate(Request("Hello", request_id="a")))
            gate.open()
            with pytest.raises(InvalidRequest, match="'a' is in use"):
                await second
            assert case.differences(check_events([first, *await collect(stream)])) == []

    run(main())


def test_too_many_waiting_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(max_num_waiting=2)
    gate = Gate(monkeypatch, engine, "prepare")

    async def main() -> None:
        async with serving(engine, gate) as served:
            taken = [asyncio.create_task(served.generate(Request("Hello"), SHORT)) for _ in range(2)]
            while served.health().num_waiting < 2:
                await asyncio.sleep(0)
            with pytest.raises(EngineOverloaded, match="2 requests are waiting already"):
                await served.generate(Request("Hello"), SHORT)
            gate.open()
            await asyncio.gather(*taken)
            assert gate.num_calls == 2
            await served.generate(Request("Hello"), SHORT)

    run(main())


def test_fifty_of_all_kinds_with_leaving_aborts_and_faults() -> None:
    engine = load(max_num_seqs=12, block_size=4, max_num_batched_tokens=256)
    draw = random.Random(7)

    async def good(served: AsyncEngine, case: Case) -> None:
        assert case.differences(check_events(await collect(served.stream(case.request())))) == []

    async def bad(served: AsyncEngine) -> None:
        request, params, message = draw.choice(BAD[:-1])
        with pytest.raises(InvalidRequest, match=message):
            await served.generate(request, params)

    async def left(served: AsyncEngine, case: Case, num_events: int) -> None:
        stream = served.stream(case.request())
        for _ in range(num_events):
            if isinstance(await anext(stream), Finished):
                return
        await stream.aclose()

    async def cancelled(served: AsyncEngine, case: Case, num_turns: int) -> None:
        task = asyncio.create_task(served.generate(case.request()))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

    async def aborted(served: AsyncEngine, case: Case, name: str) -> None:
        events: list[Event] = []
        async for event in served.stream(case.request(name)):
            events.append(event)
            if len(events) == 3:
                await served.abort(name)
        done = check_events(events)
        assert done.finish_reason == "abort" or case.differences(done) == []

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            jobs: list[Coroutine[Any, Any, None]] = []
            for i in range(50):
                case = draw.choice(cases())
                match draw.choice(("good", "good", "bad", "left", "cancelled", "aborted")):
                    case "good":
                        jobs.append(good(served, case))
                    case "bad":
                        jobs.append(bad(served))
                    case "left":
                        jobs.append(left(served, case, draw.randint(1, 30)))
                    case "cancelled":
                        jobs.append(cancelled(served, case, draw.randint(0, 200)))
                    case "aborted":
                        jobs.append(aborted(served, case, f"aborted-{i}"))
            await asyncio.gather(*jobs)
            while served.health().num_waiting:  # requests that were cancelled while they were read
                await asyncio.sleep(0)
            await served.abort("nobody")  # when this is answered, all earlier commands are done
            health = served.health()
            assert (health.alive, health.num_running, health.num_waiting) == (True, 0, 0)
            assert health.kv_cache_usage == 0.0
        assert_nothing_held(engine)

    run(main())


# --- slow readers, other loops --------------------------------------------------------------------


def test_a_sleeping_reader_holds_nobody_up_and_finds_everything() -> None:
    engine = load()
    case = next(case for case in cases() if case.name == "s2s_short")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            slow = served.stream(case.request("slow"))
            first = await anext(slow)
            while served.health().num_running:  # reads none of its events, far more than the limit
                await served.generate(Request("Hello"), SHORT)
            await served.abort("nobody")  # answered after the step that finished it has delivered
            rest = await collect(slow)
            assert len(rest) <= MAX_PENDING_EVENTS
            assert case.differences(check_events([first, *rest])) == []

    run(main())


def test_many_event_loops() -> None:
    engine = load()

    async def main(served: AsyncEngine, case: Case) -> list[str]:
        return case.differences(await served.generate(case.request()))

    with_threads: dict[str, list[str]] = {}
    served = AsyncEngine.from_engine(engine)
    threads = [
        threading.Thread(target=lambda case=case: with_threads.update({case.name: run(main(served, case))}))
        for case in cases()[:4]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served.close()
    assert with_threads == {case.name: [] for case in cases()[:4]}


def test_a_loop_that_closes_takes_only_its_own_request_along() -> None:
    engine = load()
    served = AsyncEngine.from_engine(engine)
    loop = asyncio.new_event_loop()
    stream = served.stream(Request("Hello", request_id="a"), LONG)
    loop.run_until_complete(anext(stream))
    loop.close()

    async def main() -> None:
        # Steps in which the other request has events too.
        await served.generate(Request("Hello"), SamplingParams(max_tokens=64, ignore_eos=True))
        assert not await served.abort("a")
        assert_nothing_held(engine)
        await served.aclose()

    run(main())


# --- the end --------------------------------------------------------------------------------------


def test_a_failure_reaches_every_stream_and_all_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    steps, reading = Gate(monkeypatch, engine, "step"), Gate(monkeypatch, engine, "prepare")
    cause = RuntimeError("the device fell off the bus")

    async def main() -> None:
        async with serving(engine, steps, reading) as served:
            reading.allow(2)
            speaking = served.stream(Request("Hello", modalities=("text", "audio")), LONG)
            thinking = served.stream(Request("Hello"), LONG)
            await steps.allow_until(asyncio.gather(anext(speaking), anext(thinking)))
            being_read = asyncio.create_task(served.generate(Request("Hello"), LONG))
            while not served.health().num_waiting:
                await asyncio.sleep(0)
            monkeypatch.setattr(engine.runner, "run_text", lambda plan: (_ for _ in ()).throw(cause))
            steps.open()
            for failing in (collect(speaking), collect(thinking), being_read, served.generate(Request("Hi"))):
                with pytest.raises(EngineDead, match="RuntimeError: the device fell off the bus") as dead:
                    await failing
                assert dead.value.__cause__ is cause
            health = served.health()
            assert (health.alive, health.error) == (False, "RuntimeError: the device fell off the bus")
            assert not await served.abort("nobody")

    run(main())


@pytest.mark.parametrize("where", ["step", "prepare"])
def test_closing_ends_streams_that_are_open(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Those of running requests and of those being read: neither waits for what holds it up."""
    engine = load()
    gate = Gate(monkeypatch, engine, where)
    stopping, stop = threading.Event(), EngineThread.stop

    def told(thread: EngineThread) -> None:
        stop(thread)
        stopping.set()

    monkeypatch.setattr(EngineThread, "stop", told)

    async def main() -> None:
        async with serving(engine, gate) as served:
            waiting = asyncio.create_task(collect(served.stream(Request("Hello"), LONG)))
            await gate.reached()
            closing = asyncio.create_task(served.aclose())
            await asyncio.to_thread(stopping.wait)
            if where == "step":
                gate.allow(1)  # the step that it is in
            with pytest.raises(EngineDead, match="the engine is closed"):
                await waiting
            gate.open()
            await closing
            served.close()
            with pytest.raises(EngineDead, match="the engine is closed"):
                await anext(served.stream(Request("Hello")))
            health = served.health()
            assert (health.alive, health.error) == (False, None)
            assert not await served.abort("nobody")

    run(main())


Threads = Callable[[], set[threading.Thread]]


def test_close_ends_all_threads(own_threads: Threads) -> None:
    served = AsyncEngine.from_engine(load())
    assert [thread.name for thread in own_threads()] == ["antiphon-engine"]
    run(served.generate(Request("Hello"), SHORT))
    closers = [threading.Thread(target=served.close) for _ in range(3)]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join()
    assert own_threads() == set()


def test_an_engine_that_is_dropped_ends_but_not_under_an_open_stream(own_threads: Threads) -> None:
    async def main() -> None:
        stream = AsyncEngine.from_engine(load()).stream(Request("Hello"), SHORT)
        gc.collect()
        check_events(await collect(stream))

    run(main())
    gc.collect()
    for thread in own_threads():
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.slow
def test_the_interpreter_ends_with_an_engine_at_work() -> None:
    program = f"""
import asyncio
from antiphon import AsyncEngine, Request, SamplingParams

engine = AsyncEngine({str(RANDOM_MODEL)!r}, device="cpu", kv_cache_bytes=32 << 20)
stream = engine.stream(Request("Hello"), SamplingParams(max_tokens=2000, ignore_eos=True))
loop = asyncio.new_event_loop()
print(type(loop.run_until_complete(anext(stream))).__name__)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "TextDelta\n", "")


# --- faults; more of them in test_faults ----------------------------------------------------------


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [Unprintable(), SystemExit(1), KeyboardInterrupt()], ids=repr_type)
def test_no_error_is_too_odd_to_be_told(
    monkeypatch: pytest.MonkeyPatch, own_threads: Threads, error: BaseException
) -> None:
    """An error that could not be printed used to hang everybody: it was printed before they were told."""
    engine = load()
    monkeypatch.setattr(engine.runner, "run_text", lambda plan: (_ for _ in ()).throw(error))

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            with pytest.raises(EngineDead, match=type(error).__name__) as dead:
                await served.generate(Request("Hello"), SHORT)
            assert dead.value.__cause__ is error
            health = served.health()
            assert not health.alive
            assert health.error is not None
            assert health.error.startswith(type(error).__name__)

    run(main())
    assert own_threads() == set()


@pytest.mark.parametrize("error", [Unprintable(), SystemExit(1), MemoryError("all of it")], ids=repr_type)
@pytest.mark.parametrize(
    "place",
    [
        "antiphon.inputs.processor.InputProcessor.process",
        "antiphon.engine.intake.OutputState",
        "antiphon.engine.intake.bounded",
    ],
)
def test_a_fault_on_the_way_in_ends_its_request_alone(
    monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            good = served.stream(Request("Hello"), SHORT)
            await anext(good)
            with monkeypatch.context() as patch:
                patch.setattr(place, lambda *_, **__: (_ for _ in ()).throw(error))
                with pytest.raises(
                    (InvalidRequest, RuntimeError, MemoryError), match=r"SystemExit|Unprintable|all of it"
                ):
                    await served.generate(Request("Hello", request_id="a"), SHORT)
            assert isinstance((await collect(good))[-1], Finished)
            assert (await served.generate(Request("Hello", request_id="a"), SHORT)).finish_reason == "length"
            assert served.health().alive
        assert_nothing_held(engine)

    run(main())


def test_a_caller_that_aborts_is_told_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    monkeypatch.setattr(engine.scheduler, "finish", lambda *_: (_ for _ in ()).throw(Unprintable()))

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            stream = served.stream(Request("Hello", request_id="a"), LONG)
            await anext(stream)
            with pytest.raises(EngineDead, match="Unprintable"):
                await served.abort("a")
            with pytest.raises(EngineDead, match="Unprintable"):
                await collect(stream)

    run(main())


def test_text_goes_on_without_a_thread_for_speech_and_health_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    start, kinds = threading.Thread.start, {"antiphon-speech"}

    def limited(thread: threading.Thread) -> None:
        if thread.name in kinds:
            raise RuntimeError("can't start new thread")
        start(thread)

    async def main() -> None:
        settings: dict[str, Any] = {"codec": RANDOM_CODEC, "device": "cpu", "kv_cache_bytes": 32 << 20}
        speech, params = Request("Hello", modalities=("text", "audio")), SamplingParams(max_units=20)
        async with AsyncEngine(RANDOM_MODEL, **settings) as served:
            assert served.health().can_speak
            monkeypatch.setattr(threading.Thread, "start", limited)
            done, written = await asyncio.gather(
                served.generate(speech, params), served.generate(Request("Hello"), SHORT)
            )
            assert (done.finish_reason, written.finish_reason) == ("error", "length")
            assert done.error == "speech: no thread can be started: RuntimeError: can't start new thread"
            health = served.health()
            assert (health.alive, health.error, health.can_speak) == (True, None, False)
            assert health.speech_error is not None
            assert f"speech: {health.speech_error}" == done.error
            kinds.clear()
            assert (await served.generate(speech, params)).audio is not None
            assert (served.health().can_speak, served.health().speech_error) == (True, None)
        assert not served.health().can_speak

    run(main())


def test_requests_are_refused_without_threads_to_read_them(
    monkeypatch: pytest.MonkeyPatch, own_threads: Threads
) -> None:
    served = AsyncEngine.from_engine(load())

    def limited(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", limited)
            with pytest.raises(EngineOverloaded, match="no thread can be started to read it"):
                await served.generate(Request("Hello"), SHORT)
        assert served.health().num_waiting == 0
        assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", limited)
            await served.aclose()
        assert own_threads() == set()

    run(main())
