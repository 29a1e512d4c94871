"""An LLM that is not ours: what the scheduler asks of it, and what it hears of it.

Text never depends on units, so an LLM elsewhere is given a prompt once, and runs ahead as fast as it can.
Only ids come back, since nothing but ids of text is fused (arXiv 2506.13642, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from antiphon.sched.plan import StackPlan
    from antiphon.sched.request import RequestState

__all__ = ["TextArrived", "TextElsewhere"]


class TextArrived(NamedTuple):
    """More of a request's text."""

    request: RequestState
    ids: Sequence[int]
    is_last: bool
    num_cached: int
    """Positions of its prompt that were not computed anew"""


class TextElsewhere(Protocol):
    """Makes the text of requests. None of its methods waits."""

    def ask(self, plan: StackPlan, /) -> None:
        """Begin the text of requests, whose whole prompts the plan holds."""

    def take(self) -> Sequence[TextArrived]:
        """What has come since the last call."""
        ...

    def drop(self, request: RequestState, /) -> None:
        """No more of a request's text is wanted. Does nothing if none is being made."""
