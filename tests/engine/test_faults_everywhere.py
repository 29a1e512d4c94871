"""Whatever is raised, wherever: whoever waits is told, health tells the truth, and no thread is left.

Each case raises one error inside one function at a boundary of the serving code, before or after it has done
its work, while several clients are served. ANTIPHON_FAULTS=all tries all of them, which takes an hour.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL

from antiphon import AsyncEngine, Engine, Event, Finished, Request, SamplingParams, Units
from antiphon.aio.audio_feed import AudioFeed
from antiphon.aio.engine_thread import EngineThread
from antiphon.aio.mailbox import Mailbox
from antiphon.aio.session import Session
from antiphon.aio.subscribers import Subscribers
from antiphon.codec import Codec
from antiphon.codec.analysis.listening import Listener
from antiphon.codec.stream import SpeechStream
from antiphon.inputs.processor import InputProcessor
from antiphon.outputs.replies import Replies
from antiphon.outputs.request_output import OutputState
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_worker import SpeechWorker
from antiphon.sched.scheduler import Scheduler

HANG_S = 60.0
SPEECH = Request("Hello", modalities=("text", "audio"))
SPOKEN = SamplingParams(max_units=40, ignore_eos=True)
WRITTEN = SamplingParams(max_tokens=6, ignore_eos=True)


class Fault(BaseException):
    """An error that no `except Exception` catches, and that cannot be printed."""

    def __str__(self) -> str:
        raise ZeroDivisionError("an error that cannot be printed")


POINTS: dict[Any, str] = {
    SpeechWorker: "begin push abort poll stop close _run _serve _batch make _decode _tell",
    Job: "is_ready",
    SpeechStream: "add",
    Codec: "decode stream listen voice",
    Listener: "push peek finish",
    Replies: "poll speak reap _close collect_audio take clear",
    OutputState: "poll new_units close completion add_audio",
    EngineThread: "_prepare _pass_on _run _obey _add _abort _end _refuse",
    Subscribers: "add _take leave abort update_speech commit step _deliver",
    Mailbox: "put fail get taken _must_ring _wake",
    AudioFeed: "push peek finish close _next _listen",
    Session: "push_audio push_units peek_units commit",
    Engine: "step add_prepared abort commit update_speech prepare has_unfinished close",
    InputProcessor: "process process_growing with_speech",
    Scheduler: "add finish update_speech",
}
MODULE_POINTS = (
    "antiphon.outputs.speech_maker.advance",
    "antiphon.aio.engine_thread.ring",
    "antiphon.aio.request_events.ring",
)
ERRORS: tuple[type[BaseException], ...] = (RuntimeError, MemoryError, SystemExit, Fault)

Case = tuple[str, type[BaseException], int, str]


def path(owner: type[Any]) -> str:
    return f"{owner.__module__}.{owner.__name__}"


def cases() -> list[Case]:
    names = [f"{path(owner)}.{name}" for owner, all_ in POINTS.items() for name in all_.split()]
    names += MODULE_POINTS
    every = itertools.product(names, ERRORS, (1, 3), ("before", "after"))
    # asyncio lets SystemExit out of a loop's own callback end the loop, and all its clients with it
    return [case for case in every if case[:2] != (f"{path(Mailbox)}._wake", SystemExit)]


def chosen() -> list[Case]:
    """One case in fifty, the same ones each time, and all that have hung before."""
    every = cases()
    if os.environ.get("ANTIPHON_FAULTS") == "all":
        return every
    hung: list[Case] = [
        ("antiphon.outputs.speech_worker.SpeechWorker._batch", MemoryError, 3, "before"),
        ("antiphon.outputs.speech_worker.SpeechWorker._tell", RuntimeError, 1, "before"),
        ("antiphon.outputs.speech_maker.advance", Fault, 1, "after"),
        ("antiphon.aio.engine_thread.EngineThread._abort", RuntimeError, 1, "before"),
        ("antiphon.aio.engine_thread.EngineThread._end", Fault, 1, "before"),
        ("antiphon.aio.mailbox.Mailbox.put", RuntimeError, 3, "before"),
        ("antiphon.aio.engine_thread.ring", Fault, 1, "before"),
    ]
    rest = [case for case in every if case not in hung]
    return hung + random.Random(0).sample(rest, 8)


def inject(monkeypatch: pytest.MonkeyPatch, case: Case) -> Callable[[], bool]:
    """Have the function raise in its n-th call. Returns a function that tells whether it has."""
    place, error, number, when = case
    where, _, name = place.rpartition(".")
    owner = next((each for each in POINTS if path(each) == where), None) or importlib.import_module(where)
    real = getattr(owner, name)
    count = itertools.count(1)
    raised: list[bool] = []

    def is_due() -> bool:
        if next(count) == number:
            raised.append(True)
            return True
        return False

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        due = is_due()
        if due and when == "before":
            raise error("injected")
        result = real(*args, **kwargs)
        if due:
            raise error("injected")
        return result

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        due = is_due()
        if due and when == "before":
            raise error("injected")
        result = await real(*args, **kwargs)
        if due:
            raise error("injected")
        return result

    wrapper = functools.wraps(real)(awaited if asyncio.iscoroutinefunction(real) else wrapped)
    monkeypatch.setattr(owner, name, wrapper)
    return lambda: bool(raised)


# --- clients ------------------------------------------------------------------------------------------


async def until_end(events: AsyncIterator[Event]) -> str:
    async for event in events:
        if isinstance(event, Finished):
            return event.completion.finish_reason
    return "left"


async def speaks_in_audio(served: AsyncEngine) -> str:
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    async with served.open(Request(Units([]), modalities=("text", "audio")), SPOKEN) as session:
        for piece in np.split(samples, 4):
            await session.push_audio(piece, 16000)
            await session.peek_units()
        await session.commit()
        return await until_end(session)


async def speaks_in_units(served: AsyncEngine) -> str:
    async with served.open(Request(Units([])), WRITTEN) as session:
        for count in (3, 9, 12):
            await session.push_units(range(count))
        await session.commit()
        return await until_end(session)


async def leaves_early(served: AsyncEngine) -> str:
    stream = served.stream(Request("Hello"), WRITTEN)
    await anext(stream)
    await stream.aclose()
    return "left"


async def is_aborted(served: AsyncEngine) -> str:
    stream = served.stream(Request("Hello", modalities=("text", "audio"), request_id="a"), SPOKEN)
    await anext(stream)
    await served.abort("a")
    return await until_end(stream)


def clients(served: AsyncEngine) -> dict[str, Coroutine[Any, Any, str]]:
    return {
        "text": until_end(served.stream(Request("Hello"), WRITTEN)),
        "speech": until_end(served.stream(SPEECH, SPOKEN)),
        "more speech": until_end(served.stream(SPEECH, SPOKEN)),
        "audio": speaks_in_audio(served),
        "units": speaks_in_units(served),
        "leaves": leaves_early(served),
        "aborted": is_aborted(served),
    }


async def end_of(client: Coroutine[Any, Any, str]) -> str:
    """How a client ended; its own SystemExit must not end the test."""
    try:
        return await client
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        return type(error).__name__


async def serve(served: AsyncEngine) -> dict[str, str]:
    tasks = {name: asyncio.create_task(end_of(client)) for name, client in clients(served).items()}
    _, pending = await asyncio.wait(tasks.values(), timeout=HANG_S)
    hanging = [name for name, task in tasks.items() if task in pending]
    for task in pending:
        task.cancel()
    assert not hanging, f"{hanging} wait forever; {served.health()}"
    return {name: task.result() for name, task in tasks.items()}


def load(codec: Codec) -> AsyncEngine:
    return AsyncEngine(RANDOM_MODEL, codec=codec, device="cpu", kv_cache_bytes=8 << 20, progress=False)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained(RANDOM_CODEC, device="cpu")


async def still_serves(served: AsyncEngine) -> None:
    """An engine that says that it is alive answers everybody."""
    health = served.health()
    if health.alive:
        ends = await serve(served)
        assert ends["text"] == "length", ends
        assert ends["speech"] == ends["more speech"] == "length", ends
        assert health.error is None
    else:
        assert not health.can_speak
        assert set((await serve(served)).values()) == {"EngineDead"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    chosen(),
    ids=lambda case: f"{case[0][len('antiphon.') :]}-{case[1].__name__}-{case[2]}-{case[3]}",
)
def test_a_fault_ends_only_what_it_must(
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    own_threads: Callable[[], set[threading.Thread]],
    case: Case,
) -> None:
    async def main() -> None:
        with monkeypatch.context() as patch:
            served = load(codec)
            was_raised = inject(patch, case)
            ends = await serve(served)
            if not was_raised():
                assert set(ends.values()) <= {"length", "left", "abort"}, ends
                await served.aclose()  # which may be where it is raised
        await still_serves(served)
        await served.aclose()
        assert not served.health().alive

    asyncio.run(main())
    deadline_s = time.monotonic() + HANG_S
    while own_threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert own_threads() == set()
