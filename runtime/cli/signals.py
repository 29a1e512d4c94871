"""Ctrl-C and SIGTERM.

The first asks what goes on to end: a `Stopped` is raised in the main thread, or the signal is `noted` where
an exception would do harm. A second one, or a first that nothing answers to, ends the process at once, by a
thread of its own: the main one may be in a kernel or an import that lasts.
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
"""How long what goes on may take to end in order."""
TWICE_S = 0.2
"""Within this time a signal counts once: `timeout` sends it to a process and then to its group."""
REPEAT_S = 0.1
"""Then the main thread is sent the signal once more: one that comes when `input` has shown its prompt, and
does not read yet, is seen at the next key."""
CLOSE, FORGET, LOOK = b"\0", b"\xfe", b"\xff"
"""What the watching thread is told, in the pipe that brings it the numbers of signals."""


class Stopped(BaseException):
    """A signal wants this to end. No Exception, for no handler of errors to take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Note:
    """A signal that was noted; `number` is None as long as there was none."""

    number: int | None = None


class _Watch:
    """Signals of this process, while its main thread runs a command."""

    def __init__(self) -> None:
        self.patience_s: float | None = PATIENCE_S
        """How long a signal may go unanswered; None: until there is a second one."""
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
        """In the main thread, between two instructions."""
        if self.patience_s == 0:
            self.end(number)
        now = time.monotonic()
        if now - self._raised_s > TWICE_S:
            self._raised_s = now
            raise Stopped(number)

    def end(self, number: int) -> NoReturn:
        """End the process without another look at anything."""
        if not self._ending.acquire(blocking=False):  # the other thread is about to
            time.sleep(TWICE_S)
            os._exit(128 + number)
        discard_unfinished()
        if self._terminal is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._terminal)
        with suppress(OSError):
            os.write(2, f"antiphon: {WORDS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)

    def _run(self) -> None:
        number, since = 0, 0.0  # the first signal that nothing has answered to yet
        is_repeated = is_echoing = False
        while True:
            left = None
            if number and not is_repeated:
                left = max(0.0, since + REPEAT_S - time.monotonic())
            elif number and self.patience_s is not None:
                left = max(0.0, since + self.patience_s - time.monotonic())
            if not select.select([self._readable], [], [], left)[0]:
                if is_repeated:
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
"""At most one: signals come to the process."""


def _watch() -> _Watch | None:
    return _watches[0] if _watches else None


@contextmanager
def watched() -> Iterator[None]:
    """In the block signals raise `Stopped`. Those that are ignored, as under nohup, stay so."""
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
    """A `Stopped` that falls into a destructor is lost there, and is no error: the watch ends the process."""
    return lambda lost: None if issubclass(lost.exc_type, Stopped) else show(lost)


@contextmanager
def at_once() -> Iterator[None]:
    """Signals end the process at once: there is nothing to keep, and what runs bears no exception (imports of
    extensions) or does not come back for long."""
    with _patience(0.0):
        yield


@contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    watch = _watch()
    if watch is None:
        yield
        return
    before, watch.patience_s = watch.patience_s, seconds
    try:
        yield
    finally:
        watch.patience_s = before
        watch.tell(LOOK)


@contextmanager
def noted(note: Note | None = None, *, patience_s: float | None = None) -> Iterator[Note]:
    """Signals raise nothing in the block, which is to look at the note and to `forget` what it answered.

    patience_s: how long that may take; None: for ever, or until there is a second one.
    """
    note = note or Note()
    if threading.current_thread() is not threading.main_thread():
        yield note
        return

    def take(number: int, _: FrameType | None) -> None:
        note.number = number
        if _watch() is None:  # nobody else ends a block that does not: the next one does what it did before
            signal.signal(number, before[signal.Signals(number)])

    numbers = [n for n in WORDS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before: dict[signal.Signals, Any] = {n: signal.signal(n, take) for n in numbers}
    try:
        with _patience(patience_s):
            yield note
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget() -> None:
    """The signals so far have been answered; one that comes from here on is another, however soon."""
    if (watch := _watch()) is not None:
        watch.forget()


def stop(number: int) -> NoReturn:
    """What was noted now ends what goes on, as if the signal had just come: within the same time."""
    if (watch := _watch()) is not None:
        watch.tell(bytes([number]))
    raise Stopped(number)


def end(number: int) -> NoReturn:
    """What had to be kept is kept: end the process, with the status that shells give a signal."""
    if (watch := _watch()) is not None:
        watch.end(number)
    os._exit(128 + number)


def _terminal_settings() -> list[Any] | None:
    try:
        return termios.tcgetattr(0) if os.isatty(0) else None
    except (OSError, termios.error):
        return None
