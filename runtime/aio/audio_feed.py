"""Turns the audio of one speaker, as it comes, into the units heard so far."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.process.faults import as_exception, log_fault
from antiphon.process.workers import Workers
from antiphon.sound.activity import SpeechActivity

if TYPE_CHECKING:
    from antiphon.codec.analysis.listening import Listener

__all__ = ["MAX_PENDING_PIECES", "AudioFeed"]

MAX_PENDING_PIECES = 32
"""Pieces of audio that may wait to be heard; a caller that pushes one more waits as well."""


class AudioFeed:
    """Audio goes in piece by piece, and through a listener in a thread of its own; the units go to `tell`.

    Pieces that come while another is being heard are then heard together, so that a listener that falls
    behind catches up. Belongs to the event loop in which it was made.
    """

    def __init__(
        self,
        listener: Listener,
        rate_hz: int,
        tell: Callable[[list[int]], Awaitable[None]],
        fail: Callable[[BaseException], None],
        thread: Workers,
    ) -> None:
        """rate_hz: that of the samples. tell: gets all units heard so far, and is awaited. fail: gets the
        error that ended the feed, if one did. thread: the feed's own, since a slow network must hold up
        nobody else; it is stopped when the feed ends."""
        self._listener = listener
        self._activity = SpeechActivity(rate_hz)
        self._tell = tell
        self._fail = fail
        self._pieces: deque[np.ndarray] = deque()
        self._peeks: list[asyncio.Future[list[int]]] = []
        """Calls of `peek` that wait for their answers."""
        self._is_whole = False
        self._units: list[int] = []
        self._error: BaseException | None = None
        self._changed = asyncio.Condition()
        self._thread = thread
        self._task = asyncio.create_task(self._run())

    async def push(self, samples: np.ndarray) -> None:
        """Add samples, float32 (n,), once there is room for them. Raises what ended the feed."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._pieces) < MAX_PENDING_PIECES or self._is_whole)
            self._check_open()
            self._pieces.append(samples)
            self._changed.notify_all()

    async def peek(self) -> list[int]:
        """All units if the audio that was pushed before this call were all of it; more may follow. Raises
        what ended the feed."""
        asked: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        async with self._changed:
            self._check_open()
            self._peeks.append(asked)
            self._changed.notify_all()
        return await asked

    async def finish(self) -> list[int]:
        """No more audio will come: returns all units, once all is heard. Raises what ended the feed."""
        async with self._changed:
            self._is_whole = True
            self._changed.notify_all()
        await asyncio.wait([self._task])
        self._check()
        return self._units

    @property
    def has_speech(self) -> bool:
        """Whether there is speech in what was heard."""
        return self._activity.has_speech()

    def sound_units(self, num_units: int) -> int:
        """See `Listener.sound_units`."""
        return self._listener.sound_units(num_units)

    def close(self) -> None:
        """Hear no more. The thread ends when it has heard the current pieces."""
        self._task.cancel()

    def drop(self) -> None:
        """`close` from any thread, and from a finalizer."""
        with suppress(RuntimeError):  # the loop is closed
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        self._thread.stop()

    async def _run(self) -> None:
        submit = self._thread.submit
        try:
            while any(there := await self._next()):
                pieces, peeks = there
                if pieces:
                    units = await asyncio.wrap_future(submit(self._listen, pieces))
                    if units is not None:
                        await self._tell(units)
                if peeks:
                    self._answer(peeks, await asyncio.wrap_future(submit(self._listener.peek)))
            self._units = await asyncio.wrap_future(submit(self._listener.finish))
        except asyncio.CancelledError:
            self._error = InvalidRequest("audio: the session has ended")
            raise
        except BaseException as error:  # noqa: BLE001 - it concerns this speaker alone
            self._error = as_exception(error)
            self._tell_failure(self._error)
        finally:
            self._thread.stop()
            self._is_whole = True
            self._refuse(self._peeks)
            async with self._changed:
                self._changed.notify_all()  # callers that wait for room find that the feed has ended

    def _tell_failure(self, error: Exception) -> None:
        try:
            self._fail(error)
        except Exception as fault:  # noqa: BLE001 - the next push or commit tells it all the same
            log_fault("a session could not be told that its audio failed", error=fault)

    async def _next(self) -> tuple[list[np.ndarray], list[asyncio.Future[list[int]]]]:
        """All pieces and all calls of `peek` that wait, once there are any; none, once all audio has been
        heard."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pieces or self._peeks or self._is_whole)
            pieces = list(self._pieces)
            self._pieces.clear()
            self._changed.notify_all()
        return pieces, list(self._peeks)

    def _answer(self, peeks: list[asyncio.Future[list[int]]], units: list[int]) -> None:
        self._peeks = self._peeks[len(peeks) :]
        for asked in peeks:
            if not asked.done():  # its caller waits no longer
                asked.set_result(list(units))

    def _refuse(self, peeks: list[asyncio.Future[list[int]]]) -> None:
        error = self._error or InvalidRequest("audio: the speech has ended; more cannot be heard")
        for asked in peeks:
            if not asked.done():
                asked.set_exception(error)

    def _listen(self, pieces: list[np.ndarray]) -> list[int] | None:
        samples = np.concatenate(pieces)
        self._activity.push(samples)
        return self._listener.push(samples)

    def _check_open(self) -> None:
        self._check()
        if self._is_whole:
            raise InvalidRequest("audio: the speech has ended; more cannot be heard")

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
