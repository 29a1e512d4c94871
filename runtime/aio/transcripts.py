"""The segments of a long recording as they become known, from a task of an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from antiphon.engine.transcribing import CutRecording
from antiphon.errors import EngineOverloaded
from antiphon.outputs.transcription import Segment
from antiphon.types import Completion, Request

__all__ = ["MAX_AT_A_TIME", "segments_of"]

MAX_AT_A_TIME = 8
"""Pieces of one recording that are computed together; this leaves room for other requests."""
RETRY_S = 0.1
"""How long a piece waits that found no room."""


async def segments_of(
    recording: CutRecording, complete: Callable[[Request], Awaitable[Completion]]
) -> AsyncGenerator[Segment, None]:
    """The segments of a recording, in order. Leaving it aborts the requests that run.

    complete: gives the completion of one request. If it raises EngineOverloaded for the first piece, so does
    this; later pieces wait until there is room.
    """
    running: deque[asyncio.Task[Completion]] = deque()
    waiting = deque(enumerate(recording.requests))
    num_done = 0
    try:
        while waiting or running:
            while waiting and len(running) < MAX_AT_A_TIME:
                index, request = waiting.popleft()
                running.append(asyncio.create_task(_completed(complete, request, is_first=index == 0)))
            completion = await running[0]
            running.popleft()
            segment = recording.segment(num_done, completion)
            num_done += 1
            if segment is not None:
                yield segment
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _completed(
    complete: Callable[[Request], Awaitable[Completion]], request: Request, *, is_first: bool
) -> Completion:
    while True:
        try:
            return await complete(request)
        except EngineOverloaded:
            if is_first:
                raise
            await asyncio.sleep(RETRY_S)
