"""What a simulation found, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from antiphon.bench.simulate.asked import Outcome

__all__ = ["Goal", "Simulated"]

ROUNDING = 1e-9


@dataclass(frozen=True)
class Goal:
    """How many of all replies may begin to sound later than that; one that fails never does."""

    first_audio_s: float
    share: float = 0.99

    def is_met(self, outcomes: Collection[Outcome]) -> bool:
        return self.is_open(outcomes, len(outcomes))

    def is_open(self, outcomes: Collection[Outcome], num_in_all: int) -> bool:
        """Whether it can still be met when these have ended, of so many in all."""
        return sum(map(self._is_late, outcomes)) <= int((1 - self.share) * num_in_all + ROUNDING)

    def _is_late(self, outcome: Outcome) -> bool:
        measured = outcome.measured
        return measured.failure is not None or (measured.ttfa_s or 0.0) > self.first_audio_s


@dataclass
class Simulated:
    """What became of the requests, and what it took."""

    outcomes: list[Outcome] = field(default_factory=list)
    """In order of arrival"""
    duration_s: float = 0.0
    """To the end of the last reply"""
    replica_s: float = 0.0
    """Seconds of all replicas that were paid for"""
    most_replicas: int = 0
    model_busy: float = 0.0
    """Share of the time of a replica in which it made a step"""
    speech_busy: float = 0.0
    """The same, in which it made speech"""
    mean_rows: float = 0.0
    """Requests in a step, over the time of steps"""
    cache_peak: float = 0.0
    """Share of the blocks of a replica's cache that were held at most"""
    num_preemptions: int = 0
    num_failures: int = 0
    """Of replicas"""
    num_steps: int = 0
    """That the scheduler planned"""
    num_jumped: int = 0
    """That were jumped over"""
