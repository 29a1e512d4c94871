"""Nothing that a client gives an engine is looked at in the engine's thread: its code, its size and its
faults concern nobody else."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_MODEL
from odd_requests import Endless, PoisonedList, PoisonedStr, odd_requests, pushes
from poison import Poison, asked_in
from serving import assert_nothing_held, load, run, serving

from antiphon import (
    AsyncEngine,
    Completion,
    Engine,
    Finished,
    Image,
    InvalidRequest,
    Request,
    SamplingParams,
    Units,
)
from antiphon.prompt import HeardUnits

SHORT = SamplingParams(max_tokens=3)


class FakeCodec:
    """Hears the samples as units."""

    voices: Sequence[str] = ("anna",)
    sample_rate_hz = 22050

    def hear(self, samples: np.ndarray, rate_hz: int, *, trim_silence: bool | None) -> HeardUnits:
        units = tuple(int(sample) for sample in samples)
        return HeardUnits(units, tuple(range(len(units))), len(units))

    def listen(self, rate_hz: int, *, max_audio_s: float, trim_silence: bool | None) -> Any:
        return self

    def push(self, samples: np.ndarray) -> Any:
        return None

    def finish(self) -> Any:
        return SimpleNamespace(units=[1, 2, 3])


def hearing() -> Engine:
    engine = load(max_num_seqs=8)
    engine.codec = FakeCodec()  # type: ignore[assignment]
    engine.inputs._codec = FakeCodec()
    return engine


async def bystanders(served: AsyncEngine, stop: asyncio.Event) -> int:
    """How many replies an honest client got meanwhile; each is the same as ever."""
    num_served, expected = 0, None
    while not stop.is_set() or num_served < 2:
        done = await served.generate(Request("I am honest."), SHORT)
        assert expected in (None, done.text_ids)
        expected = done.text_ids
        num_served += 1
    return num_served


async def outcome(answer: Awaitable[Any]) -> str:
    """The outcome of a client with odd data: it is served, or told in one printable line what is wrong."""
    try:
        await answer
    except InvalidRequest as error:
        message = str(error)
        assert len(message) < 500
        assert "\n" not in message
        return message
    return "served"


def check_engine(engine: Engine, served: AsyncEngine) -> None:
    assert served.health().alive
    assert "antiphon-engine" not in asked_in


@pytest.mark.slow
def test_odd_requests_concern_their_clients_alone() -> None:
    engine = hearing()
    asked_in.clear()

    async def main() -> None:
        async with serving(engine) as served:
            stop = asyncio.Event()
            honest = asyncio.create_task(bystanders(served, stop))
            told = {}
            for name, make in odd_requests().items():
                request, params = make()
                told[name] = await outcome(served.generate(request, params))
                del request, params
                check_engine(engine, served)
            stop.set()
            assert await honest >= 2
            assert_nothing_held(engine)
        served_all_the_same = {name for name, message in told.items() if message == "served"}
        assert served_all_the_same == {
            "content: str",
            "a role",
            "modalities: str",
            "system",
            "voice",
            "request_id",
            "units: int",
        }

    run(main())
    assert asked_in, "the poison was touched, and not in the engine's thread"


@pytest.mark.slow
@pytest.mark.long
def test_odd_pushes_concern_their_sessions_alone() -> None:
    engine = hearing()
    asked_in.clear()

    async def main() -> None:
        async with serving(engine) as served:
            stop = asyncio.Event()
            honest = asyncio.create_task(bystanders(served, stop))
            for name, push in pushes().items():
                async with served.open(Request([Units([1, 2])])) as session:
                    message = await outcome(push(session))
                    assert (message == "served") == (name == "units: int"), (name, message)
                    check_engine(engine, served)
                    await session.commit()
                    events = [event async for event in session]
                    assert isinstance(events[-1], Finished), "a refusal has changed nothing"
            wrong_ids: list[Any] = [Poison(), PoisonedList(), 3, None, ["a"]]
            for wrong in wrong_ids:
                assert "expected a string" in await outcome(served.abort(wrong))
            assert not await served.abort(PoisonedStr("nobody"))
            stop.set()
            assert await honest >= 2
            check_engine(engine, served)
            assert_nothing_held(engine)

    run(main())


def test_a_client_that_sleeps_sleeps_alone() -> None:
    """A sequence that is slow to walk holds up neither the engine nor its own event loop."""
    engine = load()
    release, entered = threading.Event(), threading.Semaphore(0)

    class Slow(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            entered.release()
            release.wait(60)
            return super().__iter__()

    async def one_by_one(served: AsyncEngine, request: Request) -> Completion:
        return await served.generate(request, SHORT)

    async def in_a_session(served: AsyncEngine) -> None:
        async with served.open(Request([Units([1, 2])])) as session:
            await session.push_units(Slow([3, 4]))
            await session.commit()
            async for _ in session:
                pass

    async def main() -> None:
        async with serving(engine) as served:
            odd = [Request(Slow(["Hello"])), Request([Units(Slow([1, 2]))]), Request("a", Slow(["text"]))]
            slow = [asyncio.create_task(one_by_one(served, request)) for request in odd]
            slow.append(asyncio.create_task(in_a_session(served)))  # type: ignore[arg-type]
            for _ in slow:
                while not entered.acquire(blocking=False):
                    await asyncio.sleep(0.01)
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"
            assert not any(task.done() for task in slow)
            release.set()
            await asyncio.gather(*slow)
            assert_nothing_held(engine)

    run(main())


def test_a_stream_that_is_left_while_its_request_is_copied() -> None:
    engine = load()
    release, entered = threading.Event(), threading.Event()

    class Slow(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            entered.set()
            release.wait(60)
            return super().__iter__()

    async def main() -> None:
        async with serving(engine) as served:
            stream = served.stream(Request(Slow(["Hello"])), SHORT)
            reader = asyncio.create_task(anext(stream, None))
            while not entered.is_set():
                await asyncio.sleep(0.01)
            await stream.aclose()
            release.set()
            assert await reader is None
            assert served.health().num_waiting == served.health().num_running == 0

    run(main())


def test_changing_an_argument_afterwards_changes_nothing() -> None:
    engine = load()
    content: list[Any] = ["Hello", Units([1, 2, 3])]
    units, stop = [1, 2, 3], ["never"]
    with engine:
        expected = engine.generate(Request(["Hello", Units([1, 2, 3])]), SamplingParams(max_tokens=5))[0]
        content[1] = Units(units)
        params = SamplingParams(max_tokens=5, stop=stop)
        request_id = engine.add_request(Request(content), params)
        content.append(Poison())
        units[:] = [10**5000] * 10
        stop[:] = [""]
        object.__setattr__(params, "max_tokens", 0)
        done: list[Completion] = []
        while engine.has_unfinished():
            done += [event.completion for event in engine.step() if isinstance(event, Finished)]
    assert [(d.request_id, d.text_ids) for d in done] == [(request_id, expected.text_ids)]


@pytest.mark.slow
def test_odd_requests_of_an_engine_without_a_thread() -> None:
    """`generate` answers the others of the batch, and so does an engine that is stepped."""
    engine = hearing()
    with engine:
        expected = engine.generate(Request("I am honest."), SHORT)[0].text_ids
        for name, make in odd_requests().items():
            request, params = make()
            first, odd, last = engine.generate(
                [Request("I am honest."), request, Request("I am honest.")], [SHORT, params, SHORT]
            )
            assert first.text_ids == last.text_ids == expected, name
            assert odd.error is None or len(odd.error) < 500
        for call in (
            lambda: engine.update_speech(Poison(), [1]),
            lambda: engine.commit(PoisonedStr("nobody"), [1]),
            lambda: engine.abort(Poison()),
            lambda: engine.add_request(Request("Hello"), stream_audio=Poison()),
            lambda: engine.generate(Poison()),
            lambda: engine.generate([Request("Hello")], Endless(SHORT)),
            lambda: engine.generate(Request("Hello"), PoisonedList([SHORT])),
            lambda: engine.generate("Hello"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidRequest):
                call()
        assert engine.generate(Request("I am honest."), SHORT)[0].text_ids == expected
        assert_nothing_held(engine)


def test_requests_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.engine.arguments.MAX_REQUESTS", 1000)
    with Engine(RANDOM_MODEL, device="cpu", kv_cache_bytes=1 << 22) as engine:
        with pytest.raises(InvalidRequest, match="requests: expected at most 1000 of them, got more"):
            engine.generate(itertools.repeat(Request("Hello")))
        done = engine.generate((Request("Hello") for _ in range(2)), SHORT)
        assert len(done) == 2


def test_foreign_interrupts_go_to_their_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a client's own code is run goes through; what is raised while its picture is read becomes
    an error of its request, since it would end the whole event loop."""
    engine = load()

    class Interrupting(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise KeyboardInterrupt

    class Exiting:
        def __fspath__(self) -> str:
            raise SystemExit(3)

    with pytest.raises(KeyboardInterrupt):
        engine.add_request(Request(Interrupting(["Hello"])))

    async def main() -> None:
        async with serving(engine) as served:
            import os

            os.PathLike.register(Exiting)
            message = await outcome(served.generate(Request([Image(Exiting()), "?"]), SHORT))
            assert "SystemExit" in message
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"

    run(main())


def test_counting_takes_no_time() -> None:
    """All of these are refused by their counts, together in less time than a walk over one of them takes."""
    engine = load()
    huge = 10**9
    with engine:
        started_s = time.perf_counter()
        for request in (
            Request(Units(range(huge))),
            Request(Units(np.broadcast_to(np.int8(1), huge))),  # type: ignore[arg-type]
            Request([Units(range(huge))] * 3),
            Request([Image(np.broadcast_to(np.uint8(1), (huge, huge))), "?"]),
        ):
            assert "expected at most" in str(engine.generate(request)[0].error)
        assert time.perf_counter() - started_s < 20
