"""What the scheduler tells the runner: which positions of which requests a pass through a stack computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from antiphon.sched.request import RequestState

__all__ = ["Chunk", "Spoken", "Stack", "StackPlan"]

Stack = Literal["bottom", "text", "top"]


@dataclass(frozen=True)
class Chunk:
    """Positions [start, end) of one request's track."""

    request: RequestState
    start: int
    end: int
    samples: bool = False
    """The last position is the last known one: an id is picked from it."""

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class StackPlan:
    """One pass through one stack. Every position has its block, and everything it depends on is computed."""

    stack: Stack
    chunks: list[Chunk]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.chunks))


class Spoken(NamedTuple):
    """The results of a pass of the top layers, for each chunk that samples."""

    units: Sequence[int]
    """The ids that were picked"""
    labels: Sequence[int | None]
    """What the bottom layers hear each unit as, if the same pass has computed their position for it; None
    where it has not."""
