"""A request's speech: its units, its sound so far, and when that runs out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from antiphon.codec.stream import Stream
from antiphon.sound.arrays import AudioArray

if TYPE_CHECKING:
    from antiphon.codec.voices import Voice

__all__ = ["Job", "Spoken"]


@dataclass(frozen=True, eq=False)
class Spoken:
    """What became of a request's speech: more samples, its end, or why there will be no more."""

    request_id: str
    samples: AudioArray
    """float32 (n,), possibly empty."""
    is_last: bool
    error: str | None = None


@dataclass(eq=False)
class Job:
    """A request that speaks. At most one batch holds it at a time."""

    request_id: str
    voice: Voice
    seed: int
    stream: Stream | None
    """None: it is decoded whole, once it has all its units."""
    due_s: float
    """When its sound runs out; until it sounds, some time after it arrived."""
    gapless: bool = False
    """Whether its sound is held back until it is likely to go on without a gap."""
    sounds: bool = False
    """Whether some of its sound has been told."""
    num_units: int = 0
    """Units that have come."""
    first_unit_s: float = 0.0
    """When the first of them came."""
    held: list[AudioArray] = field(default_factory=list)
    """Sound that is held back."""
    units: list[int] = field(default_factory=list)
    """Units that are not in the stream yet."""
    is_complete: bool = False
    thread: threading.Thread | None = None
    """That whose batch holds it; None: no batch does."""
    num_deaths: int = 0
    """Processes that have died one after the other while they made its next sound."""
    result: Future[AudioArray] | None = None
    """Where its speech goes if it belongs to no request of the engine."""

    def add(self, units: Sequence[int], now_s: float, *, final: bool) -> None:
        """More of its units have come."""
        if units and not self.num_units:
            self.first_unit_s = now_s
        self.units += units
        self.num_units += len(units)
        self.is_complete = self.is_complete or final

    def take(self) -> AudioArray:
        """The sound that is held, which then is no longer."""
        held, self.held = self.held, []
        return np.concatenate(held) if held else np.zeros(0, np.float32)

    def is_ready(self) -> bool:
        """Whether there is something to decode. Called under the lock, and while no batch holds the job."""
        if self.stream is None:
            return self.is_complete
        if self.units or (self.is_complete and not self.stream.flow.is_complete):
            self.stream.add(self.units, final=self.is_complete)
            self.units = []
        return self.stream.ready
