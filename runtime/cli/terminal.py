"""Events on a terminal, as they come."""

from __future__ import annotations

from pathlib import Path

import typer

from antiphon.cli.streams import NotShown, say
from antiphon.types import Completion, Event, TextDelta, TranscriptDelta

__all__ = ["EventPrinter", "printable"]

HEARD = "heard"
REPLY = "reply"
SPEECH = "speech"
LABEL_WIDTH = 8
ENDINGS = {"length": " [cut off at the limit]", "abort": " [stopped]"}


class EventPrinter:
    """Prints one request: a line for what was heard, one for the reply, one for the speech written."""

    def __init__(self, *, err: bool = False, goes_on: bool = False) -> None:
        """err: print to stderr. goes_on: skip what cannot be printed, and keep the reason in `lost`;
        if False, NotShown is raised."""
        self.lost: NotShown | None = None
        self._err = err
        self._goes_on = goes_on
        self._open: str | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, TranscriptDelta):
            self._add(HEARD, event.text)
        elif isinstance(event, TextDelta):
            self._add(REPLY, event.text)

    def finish(
        self, completion: Completion, out: Path | None, file: Path | None = None, *, is_played: bool = False
    ) -> None:
        """Ends the open line, and says what speech there is and where.

        out: where it should go, None if nowhere; file: where it is. is_played: whether the user hears it.
        """
        if completion.finish_reason in ENDINGS:
            self._add(REPLY, ENDINGS[completion.finish_reason])
        if file is not None and completion.audio is not None and completion.sample_rate_hz:
            seconds = len(completion.audio) / completion.sample_rate_hz
            self._add(SPEECH, f"{_shown(file)} ({seconds:.1f} s)")
        elif out is not None:
            made = f"{len(completion.units)} units" if completion.units else "none"
            self._add(SPEECH, f"{made}: {_shown(out)} was not written")
        elif completion.units and not is_played:
            self._add(SPEECH, f"{len(completion.units)} units")
        self._end_line()

    def _add(self, label: str, text: str) -> None:
        if self._open != label:
            self._end_line()
            self._say(typer.style(f"{label:<{LABEL_WIDTH}}", dim=True))
            self._open = label
        self._say(printable(text))

    def _end_line(self) -> None:
        if self._open is not None:
            self._say("\n")
            self._open = None

    def _say(self, text: str) -> None:
        if self.lost is not None:
            return
        try:
            say(text, nl=False, err=self._err)
        except NotShown as lost:
            if not self._goes_on:
                raise
            self.lost = lost


def _shown(file: Path) -> str:
    return "stdout" if str(file) == "-" else str(file)


def printable(text: str) -> str:
    """Text with no control characters but line breaks and tabs: a model must not control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
