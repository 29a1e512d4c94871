"""What is typed while a voice talks, or piped into it, line by line."""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from antiphon.cli.lines import bounded
from antiphon.config import InputLimits

__all__ = ["TypedLines"]

READ_BYTES = 2**16


class TypedLines:
    """Reads stdin in a thread of its own, which can be left at any moment: `sys.stdin` would keep the thread,
    and the interpreter's shutdown, until another line comes.

    For `with`. Empty lines are lines, too.
    """

    def __init__(self, take: Callable[[str | None], None]) -> None:
        """take: gets each line without surrounding spaces, and None at the end of the input."""
        self._take = take
        self._readable, self._writable = os.pipe()
        self._thread = threading.Thread(target=self._run, name="antiphon-lines", daemon=True)

    def __enter__(self) -> TypedLines:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._writable, b"\0")
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)

    def _run(self) -> None:
        try:
            number = sys.stdin.fileno()
        except (OSError, ValueError):  # not a file, or closed
            number = -1
        limit = InputLimits().max_text_chars
        decoder = codecs.getincrementaldecoder(sys.stdin.encoding or "utf-8")("surrogateescape")
        line = ""
        for content in _contents(number, self._readable):
            first, *others = decoder.decode(content).split("\n")
            line += first[: limit + 1 - len(line)]  # enough to see that it is too long
            for other in others:
                self._tell(line)
                line = other[: limit + 1]
        if line:
            self._tell(line)
        self._take(None)

    def _tell(self, line: str) -> None:
        text = bounded(line)
        if text or not line.strip():  # one that is too long is no empty one
            self._take(text)


def _contents(number: int, other: int) -> Iterator[bytes]:
    """What can be read from a file until its end, or until the other file can be read."""
    while number >= 0:
        ready = select.select([number, other], [], [])[0]
        if other in ready:
            return
        try:
            content = os.read(number, READ_BYTES)
        except OSError:  # of a terminal that is gone
            return
        if not content:
            return
        yield content
