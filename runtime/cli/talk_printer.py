"""A talk on a terminal: what is heard grows while one speaks, and the reply follows below."""

from __future__ import annotations

import shutil
import sys
from unicodedata import combining, east_asian_width

from antiphon.cli.terminal import ENDINGS, HEARD, LABEL_WIDTH, REPLY, EventPrinter, printable

__all__ = ["TalkPrinter"]


class TalkPrinter(EventPrinter):
    """Prints a talk. Elsewhere than on a terminal, what was heard is printed once, when it is known."""

    def __init__(self) -> None:
        super().__init__()
        self._is_terminal = sys.stdout.isatty()
        self._heard = ""
        """What the line of what is heard says."""

    def hear(self, text: str, *, is_all: bool = False) -> None:
        """What was heard so far, in place of what was said before; is_all: it will not change any more."""
        text = " ".join(printable(text).split())
        if not self._is_terminal:
            if is_all and text:
                self._add(HEARD, text)
                self._end_line()
            return
        if self._open != HEARD:
            self._heard = ""
        if not text.startswith(self._heard):
            self._take_back()
        if len(text) > len(self._heard):
            self._add(HEARD, text[len(self._heard) :])
            self._heard = text
        if is_all and self._open == HEARD:
            self._end_line()

    def reply(self, text: str) -> None:
        """More of the reply."""
        self._add(REPLY, text)

    def end_reply(self, reason: str = "stop") -> None:
        """The reply is over; reason: as in `Completion.finish_reason`."""
        if self._open == REPLY and reason in ENDINGS:
            self._add(REPLY, ENDINGS[reason])
        self.end_line()

    def end_line(self) -> None:
        """What comes is on another line."""
        self._end_line()

    def typed(self) -> None:
        """Somebody has pressed Enter, so that the cursor is on another line."""
        if self._is_terminal:
            self._open = None

    def _take_back(self) -> None:
        """Erase the line of what is heard, on all of the terminal's rows that it fills."""
        width = max(1, shutil.get_terminal_size().columns)
        num_rows = (LABEL_WIDTH + sum(map(_cells, self._heard)) - 1) // width
        self._say((f"\x1b[{num_rows}A" if num_rows else "") + "\r\x1b[J")
        self._open, self._heard = None, ""


def _cells(char: str) -> int:
    """How many columns a character fills."""
    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1
