"""How the number of replicas changes: some die and come back, others are started and ended on purpose."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Autoscaling", "Failures"]


@dataclass(frozen=True)
class Failures:
    """How often a replica dies, with all that it is doing, and how long it takes to come back."""

    mean_time_between_s: float
    restart_s: float = 120.0


@dataclass(frozen=True)
class Autoscaling:
    """Replicas are added while more speech waits to begin than `waiting_audio_s` for each replica."""

    most: int
    least: int = 1
    delay_s: float = 120.0
    """From the decision to the first request that the new replica takes: a machine, and the weights."""
    waiting_audio_s: float = 20.0
    """Seconds of speech of replies that have not begun to sound."""
