"""What a user says between two pauses that end a turn, read by the model while it is being said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from antiphon.aio.conversation.faults import why
from antiphon.aio.session import Session
from antiphon.errors import InvalidRequest
from antiphon.types import TranscriptUpdate, Units

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray

__all__ = ["SpokenTurn"]


class SpokenTurn:
    """One turn while it is being said: its audio goes to an open request, whose prompt is computed meanwhile,
    so that little is left to compute when a reply begins.

    Of the audio that comes, what follows a pause is held back until the user goes on: silence after speech
    never reaches the model. A turn that cannot be read any further (`fault`) takes its audio all the same,
    and lets go of it.
    """

    def __init__(self, item_id: str, start: int, rate_hz: int, num_units_before: int = 0) -> None:
        """start: the position of its first sample in the conversation's audio. num_units_before: units of
        earlier turns in the message that this turn is part of."""
        self.item_id = item_id
        self.start = start
        self.num_read = start
        """The position up to which the model has been given its audio."""
        self.paused_at: int | None = None
        """Where its speech may have ended; None while the user speaks."""
        self.units: Units | None = None
        """All of its units, if it ends where it pauses; None while that is not known."""
        self.fault: str | None = None
        """Why it cannot be read."""
        self.text = ""
        """What was heard so far."""
        self._rate_hz = rate_hz
        self._num_before = num_units_before
        self._text_before = None if num_units_before else ""
        """What the model reads in the units before; None while that is not known."""
        self._session: Session | None = None
        self._reader: asyncio.Task[None] | None = None
        self._peeking: asyncio.Task[None] | None = None

    async def open(self, session: Session, update: Callable[[SpokenTurn, TranscriptUpdate], None]) -> None:
        """Have the engine read along. update: gets what was heard so far of this turn."""
        try:
            await session.__aenter__()
        except Exception as error:  # noqa: BLE001 - it concerns this turn alone
            self.fault = why(error)
            return
        self._session = session
        self._reader = asyncio.create_task(self._read(session, update))

    async def push(self, samples: AudioArray) -> None:
        """Give the model the samples that follow those it has."""
        if not len(samples):
            return
        self.num_read += len(samples)
        self.units = None
        if self._session is not None and self.fault is None:
            try:
                await self._session.push_audio(samples, self._rate_hz)
            except Exception as error:  # noqa: BLE001 - it concerns this turn alone
                self._fail(error)

    def pause(self, at: int, peeked: Callable[[SpokenTurn], None]) -> None:
        """It may be over here, where its audio so far ends. peeked: gets told when `units` are known."""
        self.resume()
        self.paused_at = at
        if self._session is not None and self.fault is None:
            self._peeking = asyncio.create_task(self._peek(self._session, peeked))

    def resume(self) -> None:
        """It goes on."""
        self.paused_at = self.units = None
        peeking, self._peeking = self._peeking, None
        if peeking is not None:
            peeking.cancel()

    async def settled(self) -> None:
        """Wait until the units at the present pause are known, or cannot be."""
        if self._peeking is not None:
            await asyncio.wait([self._peeking])

    async def close(self) -> None:
        """The open request is not needed any more: what it computed stays in the prefix cache."""
        session, self._session = self._session, None
        tasks = [task for task in (self._reader, self._peeking) if task is not None]
        for task in tasks:
            task.cancel()
        if session is not None:
            with suppress(Exception):
                await session.aclose()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _peek(self, session: Session, peeked: Callable[[SpokenTurn], None]) -> None:
        try:
            units = await session.peek_units(tell=True)
        except Exception as error:  # noqa: BLE001 - it concerns this turn alone
            self._fail(error)
            return
        if units:
            self.units = Units(tuple(units))
            peeked(self)
        else:
            self._fail(InvalidRequest("expected speech of at least one unit, got none"))

    async def _read(self, session: Session, update: Callable[[SpokenTurn, TranscriptUpdate], None]) -> None:
        try:
            async for event in session:
                if isinstance(event, TranscriptUpdate) and (own := self._own(event)) is not None:
                    update(self, own)
        except Exception as error:  # noqa: BLE001 - it concerns this turn alone
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """It cannot be read any further. The first reason counts: later ones follow from it."""
        self.fault = self.fault or why(error)

    def _own(self, update: TranscriptUpdate) -> TranscriptUpdate | None:
        """What was heard of this turn, without the turns before it in its message; None: nothing yet. Silence
        that was cut counts as units that were read."""
        num_units = update.num_units - self._num_before
        if num_units <= 0:
            if num_units == 0:
                self._text_before = update.text
            return None
        # Without a word of where the turns before it end, its own words cannot be told from theirs.
        text = self.text if self._text_before is None else update.text.removeprefix(self._text_before)
        blanks = min(update.num_trailing_blanks, num_units)
        if self._session is not None:
            num_units = self._session.sound_units(num_units)
        return TranscriptUpdate(update.request_id, text.strip(), num_units, blanks)
