"""Threads beside the engine's: calls end with a result or an error, whatever happens."""

from __future__ import annotations

import threading

import pytest

from antiphon.errors import EngineDead, EngineOverloaded
from antiphon.process.workers import Workers

LIMIT_S = 60.0


def test_as_many_threads_as_are_needed_and_no_more() -> None:
    workers = Workers(3, "test-worker")
    gate = threading.Semaphore(0)
    assert workers.submit(lambda: 1).result(LIMIT_S) == 1
    waiting = [workers.submit(gate.acquire) for _ in range(5)]
    assert sum(thread.name == "test-worker" for thread in threading.enumerate()) == 3
    for _ in waiting:
        gate.release()
    assert [call.result(LIMIT_S) for call in waiting] == [True] * 5
    workers.stop()
    workers.join(LIMIT_S)
    assert not any(thread.name == "test-worker" for thread in threading.enumerate())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("odd"), GeneratorExit()])
def test_what_a_call_raises_ends_neither_its_thread_nor_its_waiter(error: BaseException) -> None:
    workers = Workers(1, "test-worker")

    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__) as raised:
        workers.submit(fail).result(LIMIT_S)
    assert raised.value.__cause__ is error
    assert workers.submit(int, "7").result(LIMIT_S) == 7
    workers.stop()
    workers.join(LIMIT_S)


def test_what_waits_when_it_is_stopped_is_refused() -> None:
    workers = Workers(1, "test-worker")
    started, gate = threading.Event(), threading.Event()

    def hold() -> bool:
        started.set()
        return gate.wait(LIMIT_S)

    held, waiting = workers.submit(hold), workers.submit(int)
    assert started.wait(LIMIT_S)
    workers.stop()
    gate.set()
    workers.join(LIMIT_S)
    assert held.result(LIMIT_S)
    with pytest.raises(EngineDead):
        waiting.result(LIMIT_S)
    with pytest.raises(EngineDead):
        workers.submit(int)


def test_a_call_that_no_thread_can_be_started_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2, "test-worker")
    made: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no more"))
        )
        with pytest.raises(EngineOverloaded, match="no more"):
            workers.submit(made.append, 1)
    workers.submit(made.append, 2).result(LIMIT_S)
    assert made == [2]
    workers.stop()
    workers.join(LIMIT_S)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_call_that_comes_as_it_is_stopped_is_settled(
    monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """Its place in the queue was behind the thread's end, and whoever waited for it waited for ever."""
    workers = Workers(2, "test-worker")
    if not is_first:
        workers.submit(int).result(LIMIT_S)
    have_threads = workers._have_threads

    def stopped_meanwhile() -> None:
        have_threads()
        workers.stop()
        for thread in threading.enumerate():
            if thread.name == "test-worker":
                thread.join(LIMIT_S)

    monkeypatch.setattr(workers, "_have_threads", stopped_meanwhile)
    with pytest.raises(EngineDead):
        workers.submit(int).result(LIMIT_S)
    workers.join(LIMIT_S)
    assert not any(thread.name == "test-worker" for thread in threading.enumerate())
