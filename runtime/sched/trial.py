"""Finds the request at fault: the requests of a failed pass go through it again, one by one."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.sched.plan import Chunk, Stack
from antiphon.sched.request import RequestState

__all__ = ["Trial"]


@dataclass(frozen=True)
class Trial:
    """A request that is served alone until the stack that failed has computed the positions it failed at."""

    request: RequestState
    stack: Stack
    end: int

    @classmethod
    def of(cls, chunk: Chunk, stack: Stack) -> Trial:
        return cls(chunk.request, stack, chunk.end)

    @property
    def is_over(self) -> bool:
        request = self.request
        if request.finished or not request.has_work:
            return True
        if self.stack == "top":
            return request.top_computed >= self.end
        track = request.text if self.stack == "text" else request.speech
        # once no more text will be asked for, its track holds nothing; elsewhere, none of it is computed
        is_done = track is request.text and not request.is_unread
        return track is None or track.num_computed >= self.end or is_done
