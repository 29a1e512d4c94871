"""Signals come when their handlers may raise, and not before."""

# ruff: noqa: PT012, PT017 - what of a block is done, and what is not, is what is tested here

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from antiphon.process.interrupts import Interrupts


class Late(Exception):
    """What a handler raises."""


@pytest.fixture(autouse=True)
def alarm() -> Iterator[list[int]]:
    """SIGALRM raises Late; calls are noted."""
    calls: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        calls.append(number)
        raise Late

    before = signal.signal(signal.SIGALRM, handler)
    yield calls
    assert signal.getsignal(signal.SIGALRM) is handler, "it is put back"
    signal.signal(signal.SIGALRM, before)


def test_a_signal_is_held_until_the_end(alarm: list[int]) -> None:
    done = []
    with pytest.raises(Late), Interrupts():
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGALRM)
        done.append("all of it")
        assert not alarm
    assert done
    assert len(alarm) == 1


def test_ctrl_c_is_held_until_it_is_asked_for() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        done.append("this")
        interrupts.check()
        done.append("not this")
    assert done == ["this"]


def test_where_it_is_allowed_it_comes_at_once_and_the_next_one_waits(alarm: list[int]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        try:
            with interrupts.allowed():
                signal.raise_signal(signal.SIGALRM)
                done.append("not this")
        except Late as error:
            signal.raise_signal(signal.SIGINT)
            done.append("caught")
            assert interrupts.is_one(error)
            assert not interrupts.is_one(Late())
    assert done == ["caught"]
    assert len(alarm) == 1


def test_a_signal_that_was_held_comes_when_it_is_allowed(alarm: list[int]) -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGALRM)
        with pytest.raises(Late), interrupts.allowed():
            raise AssertionError("not reached")


def test_of_several_none_is_lost(alarm: list[int]) -> None:
    with pytest.raises((Late, KeyboardInterrupt)), Interrupts():
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGINT)
    assert len(alarm) == 1


def test_a_handler_that_puts_another_in_its_place_is_obeyed(alarm: list[int]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    seen: list[int] = []

    def once(number: int, _: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, before)

    signal.signal(signal.SIGALRM, once)
    with Interrupts() as interrupts, interrupts.allowed():
        signal.raise_signal(signal.SIGALRM)
    assert seen
    with pytest.raises(Late):
        signal.raise_signal(signal.SIGALRM)


def test_signals_that_are_ignored_or_left_to_the_system_stay_so() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Interrupts():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGUSR1, before)


def test_handlers_are_not_shown_while_they_are_exchanged() -> None:
    """What shows them may catch what another signal's handler raises, as asyncio's handler of Ctrl-C does."""
    shown = []

    class Handler:
        def __call__(self, _: int, __: FrameType | None) -> None: ...

        def __repr__(self) -> str:
            shown.append(True)
            return "a handler"

    before = signal.signal(signal.SIGUSR1, Handler())
    with Interrupts():
        pass
    assert not shown
    signal.signal(signal.SIGUSR1, before)
    assert shown, "it would have been"


def test_one_may_be_inside_another(alarm: list[int]) -> None:
    """As where a handler, or a tracer, asks a second engine."""
    with pytest.raises(Late), Interrupts():
        with Interrupts() as inner, inner.allowed():
            signal.raise_signal(signal.SIGALRM)
        assert not alarm


def test_other_threads_are_not_concerned(alarm: list[int]) -> None:
    handler, seen = signal.getsignal(signal.SIGALRM), []

    def inside() -> None:
        with Interrupts() as interrupts, interrupts.allowed():
            seen.append(signal.getsignal(signal.SIGALRM))
            interrupts.check()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_a_child_that_another_thread_forks_meanwhile_has_its_handlers(alarm: list[int]) -> None:
    status: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                signal.raise_signal(signal.SIGALRM)
            except Late:
                os._exit(0)
            finally:
                os._exit(1)
        status.append(os.waitpid(pid, 0)[1])

    with Interrupts():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert status == [0]
