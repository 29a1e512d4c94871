"""What a `TurnDetector` reports.

`at` counts samples at the rate of the input, from the first sample ever pushed. The order is always
`SpeechStarted`, then `SpeechPaused` and `SpeechResumed` in turns, and `SpeechEnded` after a pause; an
`IdleTimeout` comes between turns. `at` never goes back from one event to the next, except that a turn ends
where its last pause began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["IdleTimeout", "SpeechEnded", "SpeechPaused", "SpeechResumed", "SpeechStarted", "TurnEvent"]


@dataclass(frozen=True)
class SpeechStarted:
    """A turn begins with the sample `at`: before the speech, but not before the last event."""

    at: int


@dataclass(frozen=True)
class SpeechPaused:
    """Speech seems to be over: if the turn ends now, its audio ends before the sample `at`. A reply may be
    begun, to be kept back until the turn has ended."""

    at: int


@dataclass(frozen=True)
class SpeechResumed:
    """Speech goes on from the sample `at`; the audio of the pause belongs to the turn."""

    at: int


@dataclass(frozen=True)
class SpeechEnded:
    """The turn is over; its audio ends before the sample `at`, which is that of the last `SpeechPaused`."""

    at: int


@dataclass(frozen=True)
class IdleTimeout:
    """Nobody has spoken for `idle_timeout_ms`, which were over at the sample `at`."""

    at: int


TurnEvent: TypeAlias = SpeechStarted | SpeechPaused | SpeechResumed | SpeechEnded | IdleTimeout
