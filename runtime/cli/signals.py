"""Ctrl-C and SIGTERM.

The first asks the current work to end: a `Stopped` is raised in the main thread, or the signal is `noted`
where an exception would do harm. A second one, or a first that is not answered, ends the process at once.
A separate thread does that, since the main one may be in a long kernel or import.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from antiphon.files.writing import discard_unfinished

__all__ = ["INTERRUPT", "Note", "Stopped", "at_once", "end", "forget", "noted", "stop", "watched"]

INTERRUPT = int(signal.SIGINT)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PATIENCE_S = 3.0
"""How long the current work may take to end in order."""
TWICE_S = 0.2
"""Within this time, repeats of a signal count once: `timeout` signals a process and then its group."""
REPEAT_S = 0.1
"""After this time the main thread is sent the signal again: one that comes after `input` has shown its prompt
but before it reads would otherwise be noticed only at the next key."""
CLOSE, FORGET, LOOK = b"\0", b"\xfe", b"\xff"
"""Commands to the watching thread, in the same pipe that brings it the numbers of signals."""


class Stopped(BaseException):
    """A signal asks the work to end. Not an Exception, so that no error handler takes it for one."""

    def __init__(self, number: int, *, was_noted: bool = False) -> None:
        """was_noted: the work has ended in order, and said so."""
        super().__init__(f"signal {number}")
        self.number = number
        self.was_noted = was_noted


class Note:
    """A signal that was noted; `number` is None until one comes."""

    number: int | None = None


class _Watch:
    """Watches for signals while the main thread runs a command."""

    def __init__(self) -> None:
        self.patience_s: float | None = PATIENCE_S
        """How long a signal may go unanswered; None: until a second one comes."""
        self.repeats = True
        """Whether the main thread is sent a signal a second time."""
        self._raised_s = -TWICE_S
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)
        self._main_thread = threading.get_ident()
        self._ending = threading.Lock()
        self._terminal = _terminal_settings()
        self._thread = threading.Thread(target=self._run, name="antiphon-signals", daemon=True)
        self._thread.start()

    def tell(self, word: bytes) -> None:
        with suppress(BlockingIOError):
            os.write(self._writable, word)

    def close(self) -> None:
        self.tell(CLOSE)
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)

    def forget(self) -> None:
        self._raised_s = -TWICE_S
        self.tell(FORGET)

    @property
    def wakeup_fd(self) -> int:
        return self._writable

    def handle(self, number: int, _: FrameType | None) -> None:
        """Called in the main thread, between two instructions."""
        if self.patience_s == 0:
            self.end(number)
        now = time.monotonic()
        if now - self._raised_s > TWICE_S:
            self._raised_s = now
            raise Stopped(number)

    def end(self, number: int, *, is_in_line: bool = True) -> NoReturn:
        """End the process at once; only unfinished files and the terminal are cleaned up.

        is_in_line: the cursor is where Ctrl-C was typed, behind `^C`.
        """
        if not self._ending.acquire(blocking=False):  # the other thread is already doing it
            time.sleep(TWICE_S)
            os._exit(128 + number)
        discard_unfinished()
        if self._terminal is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._terminal)
        begin = "\n" if is_in_line and number == INTERRUPT and self._terminal and os.isatty(2) else ""
        with suppress(OSError):
            os.write(2, f"{begin}antiphon: {WORDS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)

    def _run(self) -> None:
        number, since = 0, 0.0  # the first unanswered signal
        is_repeated = is_echoing = False
        while True:
            left = None
            if number and not is_repeated and self.repeats:
                left = max(0.0, since + REPEAT_S - time.monotonic())
            elif number and self.patience_s is not None:
                left = max(0.0, since + self.patience_s - time.monotonic())
            if not select.select([self._readable], [], [], left)[0]:
                if is_repeated or not self.repeats:
                    self.end(number)
                is_repeated = is_echoing = True
                signal.pthread_kill(self._main_thread, number)
            for byte in os.read(self._readable, 64):
                word = bytes([byte])
                if word == CLOSE:
                    return
                if word == FORGET:
                    number = 0
                elif is_echoing and byte == number:
                    is_echoing = False  # our own
                elif word != LOOK and byte in WORDS:
                    if number and time.monotonic() - since > TWICE_S:
                        self.end(byte)
                    if not number:
                        number, since = byte, time.monotonic()
                        is_repeated = is_echoing = False


_watches: list[_Watch] = []
"""At most one, since signals concern the whole process."""


def _watch() -> _Watch | None:
    return _watches[0] if _watches else None


@contextmanager
def watched() -> Iterator[None]:
    """In the block, signals raise `Stopped`. Those that are ignored, as under nohup, stay ignored."""
    numbers = [n for n in WORDS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    if _watches or not numbers or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    _watches.append(watch)
    before: dict[signal.Signals, Any] = {n: signal.signal(n, watch.handle) for n in numbers}
    wakeup = signal.set_wakeup_fd(watch.wakeup_fd, warn_on_full_buffer=False)
    unraisable = sys.unraisablehook
    sys.unraisablehook = _quiet(unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        _watches.remove(watch)
        watch.close()


def _quiet(show: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook that ignores a `Stopped` raised inside a destructor and lost: the watch will end the process."""
    return lambda lost: None if issubclass(lost.exc_type, Stopped) else show(lost)


@contextmanager
def at_once() -> Iterator[None]:
    """In the block, signals end the process at once: there is nothing to keep, and the code inside does not
    tolerate exceptions (imports of extensions) or runs for long without returning to Python."""
    with _patience(0.0):
        yield


@contextmanager
def _patience(seconds: float | None, *, repeats: bool = True) -> Iterator[None]:
    watch = _watch()
    if watch is None:
        yield
        return
    before = watch.patience_s, watch.repeats
    watch.patience_s, watch.repeats = seconds, repeats
    try:
        yield
    finally:
        watch.patience_s, watch.repeats = before
        watch.tell(LOOK)


@contextmanager
def noted(
    note: Note | None = None, *, patience_s: float | None = None, repeats: bool = True
) -> Iterator[Note]:
    """Signals raise nothing in the block, which must check the note and `forget` the signals it answered.

    patience_s: how long that may take; None: forever, or until a second signal comes. repeats: False for a
    block with handlers of its own, which would take the repeat of a signal for a second one.
    """
    note = note or Note()
    if threading.current_thread() is not threading.main_thread():
        yield note
        return

    def take(number: int, _: FrameType | None) -> None:
        note.number = number
        if _watch() is None:  # nothing else can end a block that hangs: the next signal does what it used to
            signal.signal(number, before[signal.Signals(number)])

    numbers = [n for n in WORDS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before: dict[signal.Signals, Any] = {n: signal.signal(n, take) for n in numbers}
    try:
        with _patience(patience_s, repeats=repeats):
            yield note
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget() -> None:
    """The signals so far have been answered; any that comes from now on is a new one, however soon."""
    if (watch := _watch()) is not None:
        watch.forget()


def stop(number: int) -> NoReturn:
    """Let a noted signal end the current work as if it had just come, within the same time."""
    if (watch := _watch()) is not None:
        watch.tell(bytes([number]))
    raise Stopped(number, was_noted=True)


def end(number: int, *, is_in_line: bool = True) -> NoReturn:
    """End the process, once everything that must be kept is kept, with the status shells give a signal.
    is_in_line: nothing was said since the signal came, so that what is said now needs a line of its own."""
    if (watch := _watch()) is not None:
        watch.end(number, is_in_line=is_in_line)
    os._exit(128 + number)


def _terminal_settings() -> list[Any] | None:
    try:
        return termios.tcgetattr(0) if os.isatty(0) else None
    except (OSError, termios.error):
        return None
