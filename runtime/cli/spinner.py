"""A sign of life on a terminal while something loads."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from itertools import cycle
from types import TracebackType

__all__ = ["Spinner"]

FRAMES, PLAIN_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
FRAME_S = 0.1
AFTER_S = 0.3
"""What takes less than this shows nothing."""
ERASE = "\r\x1b[K"


class Spinner:
    """A line on stderr that moves, with the seconds so far, and with percent once `advance` has been called.
    For `with`; at its end the line is gone. Elsewhere than on a terminal there is none.

    The cursor stays as it is: a signal may end the process at any moment.
    """

    def __init__(self, title: str) -> None:
        self.is_shown = _is_terminal()
        self._title = title
        self._percent: int | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="antiphon-spinner", daemon=True)

    def __enter__(self) -> Spinner:
        if self.is_shown:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_shown:
            self._is_over.set()
            self._thread.join()

    def advance(self, done: int, total: int) -> None:
        """How much is done; this is what `Engine` calls as its `progress`."""
        self._percent = 100 * done // max(total, 1)

    def _run(self) -> None:
        begin = time.monotonic()
        if self._is_over.wait(AFTER_S):
            return
        for frame in cycle(_frames()):
            percent = "" if self._percent in (None, 100) else f", {self._percent} %"
            _write(f"{ERASE}{frame} {self._title}{percent}, {time.monotonic() - begin:.0f} s ")
            if self._is_over.wait(FRAME_S):
                break
        _write(ERASE)


def _is_terminal() -> bool:
    with suppress(ValueError):  # it is closed
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _frames() -> str:
    try:
        FRAMES.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN_FRAMES
    return FRAMES


def _write(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
