"""Events on a terminal, as they come."""

from __future__ import annotations

from pathlib import Path

import typer

from antiphon.types import Completion, Event, TextDelta, TranscriptDelta

__all__ = ["EventPrinter"]

HEARD = "heard"
REPLY = "reply"
SPEECH = "speech"
LABEL_WIDTH = 8
ENDINGS = {"length": " [cut off at the limit]", "abort": " [stopped]"}


class EventPrinter:
    """Prints one request: a line for what was heard, one for the reply, one for the speech written."""

    def __init__(self) -> None:
        self._open: str | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, TranscriptDelta):
            self._add(HEARD, event.text)
        elif isinstance(event, TextDelta):
            self._add(REPLY, event.text)

    def finish(self, completion: Completion, file: Path | None) -> None:
        """Ends the line that is open, and says what speech there is and where."""
        if completion.finish_reason in ENDINGS:
            self._add(REPLY, ENDINGS[completion.finish_reason])
        if file is not None and completion.audio is not None and completion.sample_rate_hz:
            seconds = len(completion.audio) / completion.sample_rate_hz
            self._add(SPEECH, f"{file} ({seconds:.1f} s)")
        elif completion.units:
            self._add(SPEECH, f"{len(completion.units)} units")
        elif file is not None:
            self._add(SPEECH, "none")
        self._end_line()

    def _add(self, label: str, text: str) -> None:
        if self._open != label:
            self._end_line()
            typer.echo(typer.style(f"{label:<{LABEL_WIDTH}}", dim=True), nl=False)
            self._open = label
        typer.echo(_printable(text), nl=False)

    def _end_line(self) -> None:
        if self._open is not None:
            typer.echo()
            self._open = None


def _printable(text: str) -> str:
    """What a model says must not drive the terminal: no control characters but line breaks and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
