"""Engines behind asyncio, whose threads go step by step if a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from checkpoints import RANDOM_MODEL

from antiphon import (
    AsyncEngine,
    Completion,
    Engine,
    Event,
    Finished,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
)

__all__ = ["Gate", "assert_nothing_held", "check_events", "collect", "load", "run", "serving"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which fails instead of hanging."""
    return asyncio.run(asyncio.wait_for(main, timeout=300))


def load(**settings: Any) -> Engine:
    """The small random model without a codec, and with a cache that is quickly made."""
    return Engine(RANDOM_MODEL, device="cpu", kv_cache_bytes=32 << 20, progress=False, **settings)


def assert_nothing_held(engine: Engine) -> None:
    engine.check_integrity()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting


class Gate:
    """Lets calls of a method through only when told to, and so makes the order of events certain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self._permits = threading.Semaphore(0)
        self._num_allowed = 0
        self.num_calls = 0
        method = getattr(owner, name)

        def gated(*arguments: Any, **options: Any) -> Any:
            self.num_calls += 1
            self._permits.acquire()
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, gated)

    def allow(self, count: int) -> None:
        self._num_allowed += count
        self._permits.release(count)

    async def allow_until(self, awaited: asyncio.Future[T]) -> T:
        """Allows one call after the other, until `awaited` is done."""
        while not awaited.done():
            if self._is_holding():
                self.allow(1)
            await asyncio.sleep(0)
        return awaited.result()

    async def reached(self) -> None:
        """Waits until a call is held."""
        while not self._is_holding():
            await asyncio.sleep(0)

    def _is_holding(self) -> bool:
        return self.num_calls > self._num_allowed

    def open(self) -> None:
        self.allow(10_000)


@asynccontextmanager
async def serving(engine: Engine, *gates: Gate) -> AsyncIterator[AsyncEngine]:
    """An engine behind asyncio. Opens the gates at the end, so that a test that fails does not hang."""
    async with AsyncEngine.from_engine(engine) as served:
        try:
            yield served
        finally:
            for gate in gates:
                gate.open()


async def collect(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


def check_events(events: list[Event]) -> Completion:
    """The events are one request's, in order, and add up to its completion, which is returned."""
    assert isinstance(events[-1], Finished)
    done = events[-1].completion
    assert {event.request_id for event in events} == {done.request_id}
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == done.transcript
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done.text
    assert [unit for e in events if isinstance(e, UnitDelta) for unit in e.units] == done.units
    kinds = [type(event) for event in events]
    if TranscriptDelta in kinds and TextDelta in kinds:
        assert kinds.index(TranscriptDelta) < kinds.index(TextDelta)
    return done
