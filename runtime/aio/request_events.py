"""The reader's end that an event stream and a session share: reading a request's events, and leaving it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from antiphon.aio.engine_thread import EngineThread
from antiphon.aio.mailbox import Mailbox, ring
from antiphon.process.ownership import OfOneProcess
from antiphon.types import Event, Finished, Request, SamplingParams

__all__ = ["RequestEvents", "fail"]


class _Left(Exception):
    """The request was left: there is nothing more to read."""


class RequestEvents(OfOneProcess, AsyncIterator[Event]):
    """The reader's end of one request of an engine's thread."""

    def __init__(
        self,
        owner: object,
        thread: EngineThread,
        request: Request,
        sampling_params: SamplingParams | None,
    ) -> None:
        """owner: the `AsyncEngine`. It closes when dropped, which must not happen while this is open."""
        self._owner = owner
        self._thread = thread
        self._request = request
        self._sampling_params = sampling_params
        self._mailbox: Mailbox | None = None
        """None: the request has not been sent."""
        self._has_ended = False

    async def aclose(self) -> None:
        """Leave: the request is aborted, and nothing more comes. Does nothing if it has ended."""
        self._leave()

    def __del__(self) -> None:
        # No lock may be taken here: this may run inside anything.
        if self._mailbox is not None and not self._has_ended:
            self._thread.leave(self._mailbox)

    async def _next_event(self, mailbox: Mailbox) -> Event:
        """The next event; StopAsyncIteration once the request was left."""
        self._thread.check_process()
        try:
            event = await mailbox.get()
        except _Left:
            raise StopAsyncIteration from None
        if isinstance(event, Finished):
            self._has_ended = True
        return event

    def _leave(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            if self._mailbox is not None:
                fail(self._thread, self._mailbox, _Left())


def fail(thread: EngineThread, mailbox: Mailbox, error: BaseException) -> None:
    """Have the request of a mailbox aborted, and its reader told why."""
    thread.leave(mailbox)
    mailbox.fail(error)
    ring([mailbox])
