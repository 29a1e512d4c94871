"""How turns are detected, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from antiphon.plain import choice, flag, integer, number

__all__ = ["Eagerness", "TurnDetection", "TurnKind"]

TurnKind = Literal["server_vad", "semantic_vad"]
Eagerness = Literal["auto", "low", "medium", "high"]

MAX_PADDING_MS = 10_000
MAX_SILENCE_MS = 60_000
MAX_IDLE_MS = 3_600_000


@dataclass(frozen=True)
class TurnDetection:
    """The settings of a `TurnDetector`, named as in OpenAI's `turn_detection`. Raises InvalidRequest.

    Use None in its place for no detection, where the caller says when a turn ends.
    """

    kind: TurnKind = "server_vad"
    """What ends a turn: "server_vad", silence of `silence_duration_ms`; "semantic_vad", silence whose length
    depends on what has been said (see `TurnDetector`)."""
    threshold: float = 0.5
    """The probability of speech from which a frame counts as speech, from 0 to 1."""
    prefix_padding_ms: int = 300
    """How much of the audio before the first speech belongs to a turn."""
    silence_duration_ms: int = 500
    """For "server_vad" alone."""
    eagerness: Eagerness = "auto"
    """For "semantic_vad" alone. "auto" is "medium"."""
    create_response: bool = True
    """Whether a reply is made when a turn ends."""
    interrupt_response: bool = True
    """Whether speech interrupts a reply."""
    idle_timeout_ms: int | None = None
    """After how much audio without speech there is an `IdleTimeout`; None: never."""

    def __post_init__(self) -> None:
        read: dict[str, object] = {
            "kind": choice("kind", self.kind, get_args(TurnKind)),
            "threshold": number("threshold", self.threshold, 0.0, 1.0),
            "eagerness": choice("eagerness", self.eagerness, get_args(Eagerness)),
        }
        for name, most in (("prefix_padding_ms", MAX_PADDING_MS), ("silence_duration_ms", MAX_SILENCE_MS)):
            read[name] = integer(name, getattr(self, name), 0, most)
        for name in ("create_response", "interrupt_response"):
            read[name] = flag(name, getattr(self, name))
        if self.idle_timeout_ms is not None:
            read["idle_timeout_ms"] = integer("idle_timeout_ms", self.idle_timeout_ms, 1, MAX_IDLE_MS)
        for name, value in read.items():
            object.__setattr__(self, name, value)
