"""What the scheduler tells the runner: which positions of which requests a pass through a stack computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from antiphon.sched.request import RequestState

__all__ = ["Chunk", "Stack", "StackPlan"]

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
