"""What must have ended before the interpreter does.

A thread that is inside torch or one of our kernels while the interpreter shuts down has no interpreter to
return to: Python unwinds the thread there, which C++ forbids in many places, and the process aborts. So our
threads are ended while the interpreter still exists, and the exit status is the program's own.
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
"""How long the interpreter waits at exit for threads that are stuck. A thread that makes speech checks
between the layers of a network whether it should end; one that steps an engine checks between steps."""

HOLD_S = 5.0
"""How long a caller's daemon thread is held while the interpreter shuts down, which takes less."""

P = ParamSpec("P")
R = TypeVar("R")


class Endable(Protocol):
    """Something that owns threads from `start_thread`."""

    def stop(self) -> None:
        """Tell them to end soon. May be called twice, and from any thread; waits for nothing."""


class _Interpreter:
    """What has to end in this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.endables: weakref.WeakSet[Endable] = weakref.WeakSet()
        # Kept separately: a thread may outlive its owner, and still be inside a destructor.
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.inside: dict[int, int] = {}
        """How deep each thread is inside our functions. Each writes only its own entry, without a lock."""
        self.is_ending = False
        atexit.register(self.end)

    def end(self) -> None:
        if self.pid != os.getpid():
            return  # a child, which has none of these threads
        deadline_s = time.monotonic() + EXIT_WAIT_S
        for endable in list(self.endables):
            _undisturbed(endable.stop)
        self._join_threads(deadline_s)
        self.is_ending = True  # from here on no caller gets in, and none of those inside gets out
        _undisturbed(lambda: self._wait_for_callers(deadline_s))
        self._join_threads(deadline_s)  # those that callers have started in the meantime

    def _join_threads(self, deadline_s: float) -> None:
        for thread in list(self.threads):
            if thread.ident is not None:
                _undisturbed(lambda: thread.join(max(0.0, deadline_s - time.monotonic())))  # noqa: B023

    def holds_back(self) -> bool:
        """At exit a daemon thread waits here, though not forever, since others may be waiting for it."""
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
    """Stop it when the interpreter ends, and wait for its threads."""
    _this_interpreter().endables.add(endable)


def start_thread(
    run: Callable[[], None], name: str, *, before: Callable[[threading.Thread], None] | None = None
) -> threading.Thread:
    """A thread that the interpreter waits for at exit, once everything that may be using it has been stopped.

    before: called with the thread before it runs.

    The thread is a daemon, or Python would wait for it earlier. Raises what `threading.Thread.start` raises.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    _this_interpreter().threads.add(thread)
    if before is not None:
        before(thread)
    thread.start()
    return thread


def awaited_at_exit(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function that callers may be inside, in threads of their own, when the interpreter ends.

    Python does not wait for daemon threads. One that is inside runs to the function's end and is held there,
    as is one that calls it later: whatever it did next, even destroying its results, would find no
    interpreter. If the interpreter still exists after a while, a thread that called late gets EngineDead.
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
    """Run it and swallow errors: what follows must be done as well. Ctrl-C only makes it start again."""
    while True:
        try:
            return action()
        except KeyboardInterrupt:
            continue
        except Exception as error:  # noqa: BLE001
            return log_fault("at the interpreter's end", error=error)
