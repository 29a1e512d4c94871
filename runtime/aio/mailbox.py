"""From the engine's thread to a task of an event loop: the events of one request."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np

from antiphon.types import (
    AudioDelta,
    Event,
    Finished,
    TextDelta,
    TranscriptDelta,
    TranscriptUpdate,
    UnitDelta,
)

__all__ = ["LOOK_UP_S", "MAX_PENDING_EVENTS", "Mailbox", "ring"]

MAX_PENDING_EVENTS = 64
"""Events that wait for a slow reader as they were made; beyond that, events of a kind are merged."""

LOOK_UP_S = 1.0
"""How often a waiting reader looks by itself: the call that should have woken it may have failed."""


class Mailbox:
    """Any thread puts events in, and a task of `loop` gets them in order; an error may come last.

    Neither the engine nor another request ever waits for a reader. A slow one finds one merged event
    of each kind, so a mailbox holds at most one reply, whose length the request's own `max_tokens` and
    `max_units` bound, in at most `MAX_PENDING_EVENTS` pieces. Nothing is lost.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request_id: str | None,
        why_nothing_comes: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        """why_nothing_comes: returns the error to raise if nobody will put anything in any more."""
        self.loop = loop
        self._why_nothing_comes = why_nothing_comes
        self.request_id = request_id
        """None: the engine has yet to name it."""
        self.is_taken = False
        """The engine has taken the request."""
        self.confirmed_s: float | None = None
        """When the request was confirmed, if the engine had not taken it by then."""
        self.is_over = False
        """Nothing more is wanted. Set without a lock: the garbage collector may do it, inside anything."""
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._error: BaseException | None = None
        self._filled = asyncio.Event()
        self._has_rung = False

    @property
    def is_abandoned(self) -> bool:
        """Nobody reads this any more, or can."""
        return self.is_over or self.loop.is_closed()

    def put(self, events: Iterable[Event]) -> None:
        """Add events; `ring` wakes the reader."""
        with self._lock:
            self._events.extend(events)
            if len(self._events) > MAX_PENDING_EVENTS:
                self._events = deque(_merged(self._events))

    def fail(self, error: BaseException) -> None:
        """Have `get` raise this error, after the events that are here."""
        with self._lock:
            self._error = error

    async def get(self) -> Event:
        """The next event, once there is one. One task at a time may wait here, or in `taken`."""
        while True:
            over = self._why_nothing_comes()  # asked first: all that was put before then is here
            with self._lock:
                if self._events:
                    return self._events.popleft()
                if error := self._error or over:
                    raise error
                self._filled.clear()
                self._has_rung = False
            await self._rung()

    async def taken(self) -> None:
        """Wait until the engine has taken the request, or ended it; raises the error if it cannot."""
        while True:
            over = self._why_nothing_comes()
            with self._lock:
                if self.is_taken or self._events:
                    return
                if error := self._error or over:
                    raise error
                self._filled.clear()
                self._has_rung = False
            await self._rung()

    async def _rung(self) -> None:
        timer = self.loop.call_later(LOOK_UP_S, self._filled.set)
        try:
            await self._filled.wait()
        finally:
            timer.cancel()

    def _must_ring(self) -> bool:
        """Whether the reader may be asleep with nobody about to wake it; the caller then has to."""
        with self._lock:
            before, self._has_rung = self._has_rung, True
        return not before

    def _wake(self) -> None:
        self._filled.set()


def ring(mailboxes: Iterable[Mailbox]) -> None:
    """Wake the readers of mailboxes, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Mailbox]] = {}
    for mailbox in mailboxes:
        if mailbox._must_ring():
            by_loop.setdefault(mailbox.loop, []).append(mailbox)
    for loop, asleep in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed; `is_abandoned` tells
            loop.call_soon_threadsafe(_wake_all, asleep)


def _wake_all(mailboxes: Sequence[Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox._wake()


def _merged(events: Sequence[Event]) -> Iterator[Event]:
    """One event of each kind that occurs, in the order in which they begin in a reply."""
    request_id = events[0].request_id
    if updates := [e for e in events if isinstance(e, TranscriptUpdate)]:
        yield updates[-1]
    if heard := [e.text for e in events if isinstance(e, TranscriptDelta)]:
        yield TranscriptDelta(request_id, "".join(heard))
    if text := [e for e in events if isinstance(e, TextDelta)]:
        token_ids = chain.from_iterable(e.token_ids for e in text)
        yield TextDelta(request_id, "".join(e.text for e in text), tuple(token_ids))
    if spoken := [e for e in events if isinstance(e, UnitDelta)]:
        units = chain.from_iterable(e.units for e in spoken)
        spoken_chars = chain.from_iterable(e.spoken_chars for e in spoken)
        yield UnitDelta(request_id, tuple(units), tuple(spoken_chars))
    if audio := [e for e in events if isinstance(e, AudioDelta)]:
        samples = np.concatenate([e.samples for e in audio])
        yield AudioDelta(request_id, samples, audio[0].sample_rate_hz)
    yield from (e for e in events if isinstance(e, Finished))
