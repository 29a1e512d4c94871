"""A request whose user is still speaking, as a task of an event loop uses it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from antiphon.aio.audio_feed import AudioFeed
from antiphon.aio.client_input import take_request, take_samples, take_units
from antiphon.aio.engine_thread import EngineThread
from antiphon.aio.mailbox import Mailbox
from antiphon.aio.request_events import RequestEvents, fail
from antiphon.errors import InvalidRequest
from antiphon.plain import reading
from antiphon.types import UNITS_PER_S, Event, Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.sound.samples import SampleReader

__all__ = ["Session"]


class Session(RequestEvents):
    """An open request, from `AsyncEngine.open`: speech goes in while it is spoken, events come out.

        async with engine.open(Request([Image("cat.jpg"), Units([])])) as session:
            async for samples in microphone:
                await session.push_audio(samples, 16000)
            await session.commit()
            async for event in session:
                ...

    One task may read events while another pushes: `TranscriptUpdate`s until the commit, then those of any
    other request. Entering it has the engine take the request; leaving it before its `Finished`
    aborts the request. Speech comes as audio or as units, not as both.

    Entering, pushing, committing and reading raise InvalidRequest for what the caller got wrong, and
    EngineDead once the engine is closed or has failed; entering also EngineOverloaded.
    """

    def __init__(
        self,
        owner: object,
        thread: EngineThread,
        request: Request,
        sampling_params: SamplingParams | None,
        *,
        trim_silence: bool | None = None,
    ) -> None:
        super().__init__(owner, thread, request, sampling_params)
        self._trim_silence = trim_silence
        self._is_entered = False
        self._feed: AudioFeed | None = None
        self._reader: SampleReader | None = None
        self._rate_hz = 0
        self._num_samples = 0
        self._has_units = False
        self._is_committed = False

    @property
    def request_id(self) -> str | None:
        """The id that its events carry; None before it is entered."""
        return None if self._mailbox is None else self._mailbox.request_id

    async def __aenter__(self) -> Session:
        if self._is_entered:
            raise InvalidRequest("session: it can only be entered once")
        self._is_entered = True
        try:
            given = await take_request(self._thread.engine.inputs, self._request, self._sampling_params)
            self._mailbox = self._thread.start(*given, is_growing=True)
        except BaseException:
            self._is_entered = False  # it may be entered later, for example when fewer requests wait
            raise
        try:
            await self._mailbox.taken()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def push_audio(self, samples: Any, rate_hz: int) -> None:
        """Push the audio that follows: samples of any form that `Codec.tokenize` takes, always at one rate.

        Returns once the piece has its place in the queue, for which a caller ahead of the listener waits. A
        piece without samples is ignored. Audio that is refused here changes nothing; a fault that is found
        only when the audio is heard ends the session.
        """
        # Sound libraries are loaded by the first session that brings sound.
        from antiphon.sound.reading import check_duration, check_rate
        from antiphon.sound.samples import SampleReader

        if self._reader is None:
            self._reader = SampleReader()
        limits = self._thread.engine.config.limits
        mono = await take_samples(samples, self._reader, limits)
        mailbox = self._speaking()
        if self._has_units:
            raise InvalidRequest("audio: this session was given units")
        with reading("audio"):
            rate_hz = check_rate(rate_hz)
        if self._rate_hz not in (0, rate_hz):
            raise InvalidRequest(
                f"audio: expected the rate of the first piece, {self._rate_hz}, got {rate_hz}"
            )
        self._check_room(self._num_samples + len(mono), rate_hz)
        check_duration(self._num_samples + len(mono), rate_hz, limits)
        if not len(mono):
            return
        if self._feed is None:
            codec = self._thread.engine.codec
            if codec is None:
                raise InvalidRequest("audio: no codec is loaded to hear it with; push units")
            listener = codec.listen(rate_hz, max_audio_s=limits.max_audio_s, trim_silence=self._trim_silence)
            # Not bound to the session, which would then never be dropped.
            self._feed = AudioFeed(
                listener,
                rate_hz,
                partial(_update_speech, self._thread, mailbox),
                partial(fail, self._thread, mailbox),
                self._thread.listener(),
            )
            self._rate_hz = rate_hz
        self._num_samples += len(mono)
        # A copy: the caller may fill the same buffer again.
        await self._feed.push(mono.copy())

    async def push_units(self, units: Sequence[int]) -> None:
        """Push all units heard so far, numbered from 0, in place of those pushed before; returns when the
        engine has them. If it raises InvalidRequest, those pushed before still stand."""
        numbers = await take_units(self._thread.engine.inputs, units)
        mailbox = self._speaking()
        if self._feed is not None:
            raise InvalidRequest("units: this session was given audio")
        self._has_units = True
        await _update_speech(self._thread, mailbox, numbers)

    async def peek_units(self, *, tell: bool = False) -> list[int]:
        """The units of all audio pushed so far if it ended now, once it has been heard: those that a commit
        would give the engine. The session goes on. Empty before the first sample.

        tell: have the engine read them, until more is heard; `TranscriptUpdate` then tells what they say.
        """
        mailbox = self._speaking()
        if self._has_units:
            raise InvalidRequest("audio: this session was given units")
        units = [] if self._feed is None else await self._feed.peek()
        if tell and units:
            await _update_speech(self._thread, mailbox, units)
        return units

    def sound_units(self, num_units: int) -> int:
        """How many units the audio lasts in which the first `num_units` were heard: more than that, where
        silence was cut before, between or after them."""
        return num_units if self._feed is None else self._feed.sound_units(num_units)

    async def commit(self) -> None:
        """The user has finished; from here on the reply is made, and metrics count. Returns when all audio
        has been heard and the engine has been told.

        If it raises InvalidRequest, a session of units stays open, as it was; one of audio ends.
        """
        committed_s = time.perf_counter()
        mailbox = self._speaking()
        units, no_speech = None, False
        if self._feed is not None:
            units = await self._feed.finish()
            no_speech = not self._feed.has_speech
        try:
            await self._thread.answer(self._thread.commit(mailbox, units, committed_s, no_speech=no_speech))
        except InvalidRequest as error:
            if self._feed is not None:
                fail(self._thread, mailbox, error)
            raise
        self._is_committed = True

    async def __anext__(self) -> Event:
        if self._mailbox is None:
            raise InvalidRequest("session: it has to be entered first, with `async with`")
        if self._has_ended:
            raise StopAsyncIteration
        try:
            return await self._next_event(self._mailbox)
        except Exception:
            self._has_ended = True
            raise

    def __del__(self) -> None:
        if self._feed is not None:
            self._feed.drop()
        super().__del__()

    def _check_room(self, frames: int, rate_hz: int) -> None:
        """Raise InvalidRequest for more audio than the model can read."""
        longest = self._thread.engine.config.max_model_len
        if frames * UNITS_PER_S > longest * rate_hz:
            raise InvalidRequest(
                f"audio: expected at most {longest / UNITS_PER_S:.1f} s of speech (max_model_len is "
                f"{longest}, a second takes {UNITS_PER_S}), got {frames / rate_hz:.1f} s"
            )

    def _leave(self) -> None:
        if self._feed is not None:
            self._feed.close()
        super()._leave()

    def _speaking(self) -> Mailbox:
        """The mailbox; raises InvalidRequest if the session takes no more speech."""
        if self._mailbox is None:
            raise InvalidRequest("session: it has to be entered first, with `async with`")
        self._thread.check_process()
        if self._is_committed or self._has_ended:
            raise InvalidRequest(f"session: it {'has ended' if self._has_ended else 'is committed'}")
        return self._mailbox


async def _update_speech(thread: EngineThread, mailbox: Mailbox, units: Sequence[int]) -> None:
    await thread.answer(thread.update_speech(mailbox, units))
