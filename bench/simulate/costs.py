"""How long the parts of serving take: what a model of times answers, whatever it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from antiphon.codec.batches import Ladder
from antiphon.config import CacheConfig, EngineConfig, ModelConfig

__all__ = ["IDLE_S", "MODEL", "PREPARE", "SPEECH", "Costs", "Served", "Wake", "Work"]

MODEL, SPEECH, PREPARE = "model", "speech", "prepare"
"""The kinds of work that share a machine: steps of the engine, speech made of units, requests read."""
IDLE_S = 0.02
"""After so long without a step, threads sleep and the caches hold something else."""
LONGEST_PAUSE_S = 2.0
"""After a longer one, work takes as long as after this."""


@dataclass(frozen=True)
class Wake:
    """What work takes longer after a pause: a core of a shared machine that has rested for a second may take
    20 ms to come back."""

    alone_s: float = 0.0
    per_s: float = 0.0
    """For each second of the pause"""

    def after(self, pause_s: float) -> float:
        if pause_s <= IDLE_S:
            return 0.0
        return self.alone_s + self.per_s * min(pause_s, LONGEST_PAUSE_S)


@dataclass(frozen=True)
class Work:
    """What one pass through a stack computes."""

    stack: Literal["bottom", "text", "top"]
    rows: int
    """Requests."""
    tokens: int
    """Positions."""
    context: int
    """Positions that these attend to: for each request, the end of its chunk."""
    picks: int
    """Requests of which an id is picked."""
    is_decode: bool
    """One position of each request; of the top layers, all of which pick a unit that is heard in this
    pass."""
    picture_tiles: int = 0
    """Tiles that the vision tower sees first."""


@dataclass(frozen=True)
class Served:
    """What is served, and how: what the scheduler and the speech worker have to know of it."""

    name: str
    model: ModelConfig
    cache: CacheConfig
    settings: EngineConfig
    max_batch_frames: int
    """Of `Codec`."""
    ladder: Ladder | None
    """Of its decoder."""
    num_speech_threads: int
    num_prompt_ids: int
    """Ids around what a user says: the system message, headers and ends."""
    picture_side: int
    """Features along a tile's side."""
    picture_tiles: int
    """Tiles of a picture; each is side * side positions."""


class Costs(Protocol):
    """Times in seconds of a machine that does nothing else."""

    @property
    def served(self) -> Served:
        """What a replica serves, and with which settings."""
        ...

    @property
    def slowed(self) -> Mapping[str, Mapping[str, float]]:
        """See `Machine`."""
        ...

    @property
    def rates(self) -> Sequence[float]:
        """What its work counts for from moment to moment, 1 on average, see `Moments`; none: always 1."""
        ...

    def pass_s(self, work: Work) -> float:
        """One pass through a stack."""
        ...

    def step_s(self, rows: int) -> float:
        """What a step takes beside its passes: planning, telling."""
        ...

    def speech_s(self, frames: Sequence[int], final_frames: Sequence[int]) -> float:
        """One batch of chunks of speech. frames: mel frames that each is computed with. final_frames: those
        that become sound."""
        ...

    def prepare_s(self, speech_s: float, num_pictures: int) -> float:
        """Reading a request's files."""
        ...

    def intake_s(self) -> float:
        """What the engine's thread does to take a request in."""
        ...

    def wake_s(self, kind: str, pause_s: float) -> float:
        """What work takes longer after such a pause: a step or speech, if there was none; reading a request,
        if there was no work at all."""
        ...
