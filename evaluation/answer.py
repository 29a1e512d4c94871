"""What the model made of a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from antiphon.evaluation.cases import Case
from antiphon.sound.arrays import AudioArray

__all__ = ["Answer", "Answering"]


@dataclass(frozen=True, eq=False)
class Answer:
    text: str = ""
    """The reply"""
    transcript: str = ""
    """What was heard of the case"""
    samples: AudioArray | None = None
    """float32 (n,): the reply as speech"""
    rate_hz: int = 0
    finish: str | None = None
    """Why a reply ended: "stop" by itself, "length" at a limit; None: not known"""
    error: str | None = None
    """Why there is no answer, or not all of it"""
    ends_s: tuple[float, ...] = field(default=())
    """Of "duplex": when turns ended"""
    times: Mapping[str, float] = field(default_factory=dict)
    """Of a reply by the engine, of any use where it was computed alone"""


class Answering(Protocol):
    """The model, in this process or behind a server."""

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        """Each case's answer as soon as it is there, in any order."""
        ...
