"""What a user says between two pauses that end a turn, read by the model while it is being said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from antiphon.aio.session import Session
from antiphon.types import TranscriptUpdate, Units

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray

__all__ = ["SpokenTurn"]


class SpokenTurn:
    """One turn while it is being said: its audio goes to an open request, whose prompt is computed meanwhile,
    so that little is left to compute when a reply begins.

    Of the audio that comes, what follows a pause is held back until the user goes on: silence after speech
    never reaches the model.
    """

    def __init__(self, item_id: str, start: int, rate_hz: int) -> None:
        """start: the position of its first sample in the conversation's audio."""
        self.item_id = item_id
        self.start = start
        self.num_read = start
        """The position up to which the model has been given its audio."""
        self.paused_at: int | None = None
        """Where its speech may have ended; None while the user speaks."""
        self.units: Units | None = None
        """All of its units, if it ends where it pauses; None while that is not known."""
        self.peeking: asyncio.Task[None] | None = None
        """Finds the units at the last pause."""
        self.text = ""
        """What was heard so far."""
        self._rate_hz = rate_hz
        self._session: Session | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """Length of what the model has been given."""
        return (self.num_read - self.start) / self._rate_hz

    async def open(self, session: Session, update: Callable[[SpokenTurn, TranscriptUpdate], None]) -> None:
        """Have the engine read along; update: gets what was heard so far. Raises what entering raises."""
        await session.__aenter__()
        self._session = session
        self._reader = asyncio.create_task(self._read(session, update))

    async def push(self, samples: AudioArray) -> None:
        """Give the model the samples that follow those it has."""
        assert self._session is not None, "a turn is opened before it is heard"
        if len(samples):
            self.num_read += len(samples)
            self.units = None
            await self._session.push_audio(samples, self._rate_hz)

    async def peek(self) -> list[int]:
        """The units, if the turn ended with the audio so far."""
        assert self._session is not None, "a turn is opened before it is heard"
        return await self._session.peek_units(tell=True)

    async def close(self) -> None:
        """The open request is not needed any more: what it computed stays in the prefix cache."""
        session, self._session = self._session, None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
        if session is not None:
            with suppress(Exception):
                await session.aclose()

    async def _read(self, session: Session, update: Callable[[SpokenTurn, TranscriptUpdate], None]) -> None:
        with suppress(Exception):  # whoever pushes or peeks is told what went wrong
            async for event in session:
                if isinstance(event, TranscriptUpdate):
                    update(self, event)
