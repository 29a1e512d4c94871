"""Ctrl-C, and whatever else a signal's handler raises, kept out of what must not be cut in two."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]

NAMES = (
    *("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2"),
    *("SIGCHLD", "SIGWINCH", "SIGIO", "SIGPIPE", "SIGXCPU", "SIGTSTP", "SIGCONT"),
)
SIGNALS = tuple(int(getattr(signal, name)) for name in NAMES if hasattr(signal, name))
"""Signals that programs have handlers for. Checking one costs half a microsecond."""
ALWAYS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""Exceptions that end a program, or a part of it, and are not faults."""

Handler = Callable[[int, FrameType | None], Any]

# The C functions that Python's own wrap. The wrappers look up everything they return in an enumeration and
# put its `repr` into an error that nobody sees. That takes longer than many a step of a small model; and
# asyncio's handler of Ctrl-C shows its task's result by `reprlib`, which loses what the handler of a signal
# raises meanwhile.
_signals: Any = importlib.import_module("_signal" if importlib.util.find_spec("_signal") else "signal")
_get: Callable[[int], Any] = _signals.getsignal
_set: Callable[[int, Any], Any] = _signals.signal


class Interrupts:
    """A context in which no signal handler is called, except where `allowed` permits it.

    Python calls handlers between any two instructions of the main thread, and what they raise comes out
    there, with a list half extended, or a block taken but not recorded. Inside this context signals are
    noted. Their handlers are called where nothing is half done: in `allowed`, in `check`, and when the
    context is left. In other threads, where no handler is ever called, it does nothing. Do not nest it.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        """The signals' own handlers, while ours are in their places."""
        self._noted: list[int] = []
        self._are_held = False
        self._raised: BaseException | None = None
        self._pid = os.getpid()

    def is_one(self, error: BaseException) -> bool:
        """Whether the error is an interruption and not a fault: a handler raised it, or it ends programs."""
        return error is self._raised or isinstance(error, ALWAYS)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._raised = None
        self._are_held = True
        try:
            for number in SIGNALS:
                handler = _get(number)
                if callable(handler):
                    self._handlers[number] = handler
                    _set(number, self._take)
        except ValueError:  # the main thread, but that of a subinterpreter
            self._restore()
        except BaseException as error:  # from a handler, before ours was in its place
            self._raised = error
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handlers:
            self._restore()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block in which handlers are called at once, those of noted signals first. What they raise leaves
        the block, whatever the code inside made of it, and from then on signals are noted again."""
        self.check()
        self._are_held = False
        try:
            yield
        except GeneratorExit:  # it was never entered, or is being thrown away
            raise
        except BaseException as error:
            if self._raised is not None and error is not self._raised:
                raise self._raised from error  # the code inside mistook it for an error of its own
            raise
        finally:
            self._are_held = bool(self._handlers)
        if self._raised is not None:  # it was caught inside, or fell into a destructor
            raise self._raised

    def check(self) -> None:
        """Call the handlers of the signals that were noted."""
        while self._noted:
            number = self._noted.pop(0)
            if (handler := self._handlers.get(number)) is not None:
                self._call(handler, number, None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # another thread has forked: nobody will leave this context
            inherited = self._handlers[number]
            _set(number, inherited)
            inherited(number, frame)
            return
        handler = self._handlers.get(number)
        if self._are_held or handler is None:
            if number not in self._noted:
                self._noted.append(number)
            return
        # Held from here on: if the handler raises, no other may run before that is caught.
        self._are_held = True
        self._call(handler, number, frame)
        self._are_held = False

    def _call(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame or sys._getframe())
        except BaseException as error:
            self._raised = error
            raise

    def _restore(self) -> None:
        """Put all handlers back, even if the first ones raise in the meantime, and call those of noted
        signals."""
        raised: BaseException | None = None
        handlers = dict(self._handlers)
        self._are_held = True
        while self._handlers:
            try:
                number, handler = next(iter(self._handlers.items()))
                if _get(number) == self._take:  # else a handler has put another in its place
                    _set(number, handler)
                self._handlers.pop(number, None)
            except BaseException as error:  # noqa: BLE001 - raised below
                raised = error
        self._are_held = False
        while self._noted:
            number = self._noted.pop(0)
            try:
                handlers[number](number, sys._getframe())
            except BaseException as error:  # noqa: BLE001 - raised below
                raised = error
        if raised is not None:
            self._raised = raised
            raise raised
