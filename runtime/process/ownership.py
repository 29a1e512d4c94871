"""Who may use an engine: the process that made it, one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn

from antiphon.errors import EngineBusy, EngineDead
from antiphon.process.interrupts import Interrupts

__all__ = ["OfOneProcess", "Ownership", "check_process"]


def check_process(name: str, pid: int) -> None:
    """Raise EngineDead in any process but `pid`, which made the object called `name`."""
    if os.getpid() != pid:
        raise EngineDead(
            f"{name}: made in process {pid}, and this is its forked child {os.getpid()}, which has none "
            "of its threads; make one here, or start processes by 'spawn' or 'forkserver'"
        )


class OfOneProcess:
    """Base of classes whose objects cannot be pickled or copied, and are of no use in a forked child."""

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"{name} cannot be pickled or copied: its threads and memory belong to one process. "
            f"Pass on paths and arguments, and make a {name} in each process"
        )


class Ownership:
    """Lets one thread at a time into an engine, and only in the process that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inside = ""
        """What the thread that has the lock is doing."""
        self._interrupts = Interrupts()
        """Those of the call that is inside."""
        self._keeper: threading.Thread | None = None

    @property
    def is_here(self) -> bool:
        """Whether this is the process that made it."""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        """Raise EngineDead in a forked child."""
        check_process("engine", self._pid)

    def keep(self, keeper: threading.Thread) -> None:
        """From now on, let no other thread in."""
        with self.turn("AsyncEngine.from_engine"):
            self._keeper = keeper

    @contextmanager
    def turn(self, method: str) -> Iterator[Interrupts]:
        """A call of a method, during which signals are noted (see `Interrupts`). Raises EngineBusy while any
        call is inside, from another thread or from this one (by a signal handler or a tracer)."""
        self.check_process()
        with Interrupts() as interrupts:
            if self._keeper is not None and threading.current_thread() is not self._keeper:
                raise EngineBusy(f"{method}: an AsyncEngine has taken this engine over; use that one")
            if not self._lock.acquire(blocking=False):
                raise EngineBusy(
                    f"{method}: called while another call is inside this engine ({self._inside}); "
                    "one thread at a time may use an Engine, an AsyncEngine serves many"
                )
            try:
                self._inside = f"{method} in thread {threading.current_thread().name}"
                self._interrupts = interrupts
                yield interrupts
            finally:
                self._lock.release()

    def is_interrupt(self, error: BaseException) -> bool:
        """Whether the error interrupted the last call and is not a fault."""
        return self._interrupts.is_one(error)

    def interruptible(self) -> AbstractContextManager[None]:
        """A part of a call that may be interrupted."""
        return self._interrupts.allowed()
