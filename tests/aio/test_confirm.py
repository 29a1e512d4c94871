"""Speculative requests of an event loop, confirmed wherever they are."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from serving import Gate, assert_nothing_held, check_events, collect, load, run, serving

from antiphon import AsyncEngine, Request, SamplingParams
from antiphon.errors import InvalidRequest

GUESS = Request(
    "Hello",
    request_id="a",
    is_speculative=True,
    sampling_params=SamplingParams(max_tokens=20, ignore_eos=True),
)


def test_confirmed_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "step")  # the whole reply would take milliseconds

    async def main() -> None:
        async with serving(engine, gate) as served:
            stream = served.stream(GUESS)
            first = await gate.allow_until(asyncio.ensure_future(anext(stream)))
            assert await gate.allow_until(asyncio.create_task(served.confirm("a")))
            gate.open()
            done = check_events([first, *await collect(stream)])
            assert done.metrics.ttft_s == 0
            assert done.text_ids == (await served.generate(Request("Hello"), GUESS.sampling_params)).text_ids
            assert not await served.confirm("a")
            with pytest.raises(InvalidRequest, match="confirmed_s"):
                await served.confirm("a", confirmed_s=-1)
        assert_nothing_held(engine)
        assert not await served.confirm("a"), "the engine is closed"

    run(main())


def test_confirmed_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    prepare, gate = engine.prepare, threading.Event()
    confirmed: list[Any] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        gate.wait()
        return prepare(*args, **kwargs)

    monkeypatch.setattr(engine, "prepare", slow)
    confirm = engine.confirm

    def noted(*args: Any) -> bool:
        confirmed.append((args, confirm(*args)))
        return bool(confirmed[-1][1])

    monkeypatch.setattr(engine, "confirm", noted)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            reading = asyncio.create_task(collect(served.stream(GUESS)))
            while not served._thread.num_preparing:
                await asyncio.sleep(0.001)
            assert await served.confirm("a", confirmed_s=1.0)
            gate.set()
            done = check_events(await reading)
            assert done.metrics.ttft_s is not None and done.metrics.e2e_s is not None
            assert 0 < done.metrics.ttft_s < done.metrics.e2e_s
        assert confirmed == [(("a", 1.0), False), (("a", 1.0), True)]
        assert_nothing_held(engine)

    run(main())
