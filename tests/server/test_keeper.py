"""How a failed engine is replaced: at once the first time, then later and later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from http_server import serving_http
from server_process import chat, wait_until
from serving import load

from antiphon import AsyncEngine
from antiphon.server import keeper as keeper_module
from antiphon.server.keeper import EngineAway, EngineKeeper


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class Mortal:
    """An engine that lives for some seconds."""

    def __init__(self, clock: Clock, lives_s: float) -> None:
        self._clock = clock
        self._ends_s = clock.now_s + lives_s

    def health(self) -> Any:
        return SimpleNamespace(alive=self._clock.now_s < self._ends_s, error="it was mortal")

    async def aclose(self) -> None:
        self._ends_s = self._clock.now_s


def waits(lives_s: list[float], sleeping: Callable[[EngineKeeper, float], None] | None = None) -> list[int]:
    """How long each engine after the first was waited for, in whole seconds. sleeping: called before each
    wait for an engine."""
    clock = Clock()
    loads: list[tuple[float, float]] = []

    def make() -> Any:
        if len(loads) == len(lives_s):
            raise RuntimeError("no more engines")
        lives = lives_s[len(loads)]
        loads.append((clock.now_s, clock.now_s + lives))
        return Mortal(clock, lives)

    async def sleep(seconds: float) -> None:
        if seconds != keeper_module.LOOK_S and sleeping is not None:
            sleeping(keeper, seconds)
        await clock.sleep(seconds)

    keeper = EngineKeeper(make, restart=True, clock=clock, sleep=sleep)

    async def run() -> None:
        await keeper.start()
        await asyncio.wait_for(keeper.has_failed.wait(), 30)
        await keeper.close()

    asyncio.run(run())
    assert keeper.num_restarts == len(lives_s) - 1
    return [round(begun - ended) for (_, ended), (begun, _) in pairwise(loads)]


def test_each_failure_in_a_row_doubles_the_wait() -> None:
    assert waits([5.0] * 10) == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_healthy_minute_starts_the_waits_anew() -> None:
    assert waits([1.0, 1.0, 1.0, 61.0, 1.0, 59.0, 1.0]) == [0, 1, 2, 0, 1, 2]


def test_while_it_waits_the_keeper_says_so() -> None:
    seen = []

    def look(keeper: EngineKeeper, seconds: float) -> None:
        with pytest.raises(EngineAway, match="a fresh one will be loaded in") as raised:
            _ = keeper.engine
        assert not keeper.is_alive
        seen.append((seconds, keeper.retry_after_s, raised.value.retry_after_s))

    waits([1.0] * 4, look)
    assert seen == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]


@pytest.mark.slow
def test_clients_and_probes_are_told_when_the_engine_will_be_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_DELAY_S", 30.0)
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.01)
    with serving_http(lambda: AsyncEngine.from_engine(load()), restart=True) as served:
        first = served.engine
        first.close()
        wait_until(lambda: served.service.keeper.num_restarts == 1, "the first is replaced at once")
        assert served.http.get("/health").json() == {"status": "ok"}
        served.engine.close()
        wait_until(lambda: "will be loaded in" in served.service.keeper.state)
        for path in ("/health", "/ready"):
            told = served.http.get(path)
            assert told.status_code == 503
            assert told.json()["status"] == "unavailable"
            assert "a fresh one will be loaded in" in told.json()["detail"]
            assert 25 <= int(told.headers["retry-after"]) <= 30
        refused = served.http.post("/v1/chat/completions", json=chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_dead")
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert served.http.get("/ping").status_code == 200
