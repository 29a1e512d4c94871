"""What must have ended before the interpreter does.

A thread that is inside torch or a kernel of ours when the interpreter is taken down comes back to none:
Python unwinds the thread there, which C++ forbids in many places, and the process aborts. So threads of ours
are ended while the interpreter still stands. Then the exit status is the program's own.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from antiphon.errors import EngineDead
from antiphon.process.faults import log_fault

__all__ = ["EXIT_WAIT_S", "Endable", "awaited_at_exit", "end_before_exit", "start_thread"]

EXIT_WAIT_S = 30.0
"""How long the interpreter's end waits for threads that are stuck. One that makes speech looks between the
layers of a network whether it is to end, one that steps an engine between its steps."""

HOLD_S = 5.0
"""How long a caller's daemon thread is held where the interpreter is being taken down; that takes less."""

P = ParamSpec("P")
R = TypeVar("R")


class Endable(Protocol):
    """Something with threads of its own, from `start_thread`."""

    def stop(self) -> None:
        """Have them end soon. May be called twice, and from any thread; waits for nothing."""


class _Interpreter:
    """What is to end in this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.endables: weakref.WeakSet[Endable] = weakref.WeakSet()
        # By themselves: a thread may be all that is left of its owner, and still be inside of a destructor.
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.inside: dict[int, int] = {}
        """By thread, how deep it is inside of functions of ours. Each writes its own, without a lock."""
        self.is_ending = False
        atexit.register(self.end)

    def end(self) -> None:
        if self.pid != os.getpid():
            return  # a child, where none of these threads is
        deadline_s = time.monotonic() + EXIT_WAIT_S
        for endable in list(self.endables):
            _undisturbed(endable.stop)
        self._join_threads(deadline_s)
        self.is_ending = True  # from here on no caller comes in, and none of those inside gets away
        _undisturbed(lambda: self._wait_for_callers(deadline_s))
        self._join_threads(deadline_s)  # of those that callers have started meanwhile

    def _join_threads(self, deadline_s: float) -> None:
        for thread in list(self.threads):
            if thread.ident is not None:
                _undisturbed(lambda: thread.join(max(0.0, deadline_s - time.monotonic())))  # noqa: B023

    def holds_back(self) -> bool:
        """At the end a daemon thread waits here; not for ever, since others may wait for the thread."""
        if not self.is_ending or not threading.current_thread().daemon:
            return False
        time.sleep(HOLD_S)
        return True

    def _wait_for_callers(self, deadline_s: float) -> None:
        me = threading.get_ident()
        while any(thread != me for thread in list(self.inside)) and time.monotonic() < deadline_s:
            time.sleep(0.002)


_interpreter: _Interpreter | None = None


def _this_interpreter() -> _Interpreter:
    global _interpreter  # noqa: PLW0603 - there is one
    if _interpreter is None or _interpreter.pid != os.getpid():
        _interpreter = _Interpreter()
    return _interpreter


def end_before_exit(endable: Endable) -> None:
    """Have it stopped when the interpreter ends, and its threads waited for."""
    _this_interpreter().endables.add(endable)


def start_thread(
    run: Callable[[], None], name: str, *, before: Callable[[threading.Thread], None] | None = None
) -> threading.Thread:
    """A thread that the interpreter's end waits for, once all that may hold it have been stopped.

    before: what is done with the thread before it runs.

    A daemon, or it would be waited for before. Raises what `threading.Thread.start` raises.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    _this_interpreter().threads.add(thread)
    if before is not None:
        before(thread)
    thread.start()
    return thread


def awaited_at_exit(function: Callable[P, R]) -> Callable[P, R]:
    """A function that callers may be inside of, in threads of their own, when the interpreter ends.

    Python does not wait for daemon threads. One that is inside goes on to the function's end, and there it is
    held, as is one that comes later: what it would do next, be it to take its results apart, would find no
    interpreter. If there still is one after a while, it gets EngineDead when it comes.
    """

    @functools.wraps(function)
    def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        interpreter = _this_interpreter()
        if interpreter.holds_back():
            raise EngineDead("the interpreter is ending")
        inside, thread = interpreter.inside, threading.get_ident()
        depth = inside.get(thread, 0)
        try:
            inside[thread] = depth + 1
            return function(*args, **kwargs)
        finally:
            if depth:
                inside[thread] = depth
            else:
                inside.pop(thread, None)
                interpreter.holds_back()

    return awaited


def _undisturbed(action: Callable[[], None]) -> None:
    """Do it whatever it raises: what follows must be done as well, and be waited for in spite of Ctrl-C."""
    while True:
        try:
            return action()
        except KeyboardInterrupt:
            continue
        except Exception as error:  # noqa: BLE001
            return log_fault("at the interpreter's end", error=error)
