"""The events of one request, read in a task of an event loop."""

from __future__ import annotations

from antiphon.aio.client_input import take_request
from antiphon.aio.request_events import RequestEvents
from antiphon.types import Event

__all__ = ["EventStream"]


class EventStream(RequestEvents):
    """The events of one request, from `AsyncEngine.stream`; each delta as `Engine.step` tells it.

    The request is sent when the first event is asked for, and aborted when the stream is left before
    its `Finished`: by breaking out of the loop, by cancelling the task that waits, by `aclose`, or by
    dropping the stream. A reader that falls behind finds deltas merged: they add up to the same.

    Raises, from the loop:
        InvalidRequest: the request cannot be served as it stands.
        EngineOverloaded: too many requests are waiting; it may be sent again later.
        EngineDead: the engine was closed, or has failed, for the reason in `__cause__`.
    """

    async def __anext__(self) -> Event:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            self._thread.check_process()
            if self._mailbox is None:
                given = await take_request(self._thread.engine.inputs, self._request, self._sampling_params)
                if self._has_ended:  # it was left meanwhile
                    raise StopAsyncIteration
                self._mailbox = self._thread.start(*given)
            return await self._next_event(self._mailbox)
        except BaseException:
            self._leave()
            raise
