"""The user's side of a conversation: turns are found in the audio, and become items."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.aio.client_input import take_samples
from antiphon.aio.conversation.audio_buffer import AudioBuffer
from antiphon.aio.conversation.events import (
    ConversationEvent,
    Heard,
    HeardUpdate,
    InputCleared,
    InputCommitted,
    InputTimedOut,
    ItemAdded,
    ItemDone,
    NotHeard,
    SpeechStopped,
)
from antiphon.aio.conversation.events import SpeechStarted as SpeechBegun
from antiphon.aio.conversation.items import History, Item, new_id
from antiphon.aio.conversation.settings import ConversationSettings
from antiphon.aio.conversation.turn import SpokenTurn
from antiphon.errors import InvalidRequest
from antiphon.plain import told
from antiphon.turns.activity import voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.events import IdleTimeout, SpeechEnded, SpeechPaused, SpeechStarted, TurnEvent
from antiphon.turns.settings import MAX_SILENCE_MS, TurnDetection
from antiphon.types import UNITS_PER_S, Request, TranscriptUpdate, Units

if TYPE_CHECKING:
    from antiphon.aio.async_engine import AsyncEngine
    from antiphon.aio.conversation.replying import Replying
    from antiphon.sound.arrays import AudioArray

__all__ = ["Listening"]

SPARE_S = 1.0
"""What is kept of the audio before a turn, beyond the padding that the turn takes of it."""


class Listening:
    """The part of a conversation that hears. Its methods but `take` are called by the conversation's task."""

    def __init__(
        self,
        engine: AsyncEngine,
        history: History,
        replying: Replying,
        settings: ConversationSettings,
        emit: Callable[[ConversationEvent], None],
        post: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """emit: gets events. post: has something done by the conversation's task, in its turn."""
        self._engine = engine
        self._history = history
        self._replying = replying
        self._settings = settings
        self._emit = emit
        self._post = post
        self._rate_hz = 0
        self._reader: Any = None
        self._buffer: AudioBuffer | None = None
        self._detector: TurnDetector | None = None
        self._origin = 0
        """The position at which the detector began."""
        self._turn: SpokenTurn | None = None
        self._fault: str | None = None
        """Why the turn cannot be heard."""
        self._transcribing: set[asyncio.Task[None]] = set()

    async def take(self, samples: Any, rate_hz: int) -> AudioArray:
        """A piece of audio as mono float32 (n,). Raises InvalidRequest."""
        from antiphon.sound.reading import check_rate
        from antiphon.sound.samples import SampleReader

        if self._engine.engine.codec is None:
            raise InvalidRequest("audio: no codec is loaded to hear it with")
        rate_hz = check_rate(rate_hz)
        if self._rate_hz not in (0, rate_hz):
            raise InvalidRequest(
                f"audio: expected the rate of the first piece, {self._rate_hz}, got {rate_hz}"
            )
        limits = self._engine.engine.config.limits
        if self._buffer is None:
            self._reader = SampleReader()
            self._buffer = AudioBuffer(int(limits.max_audio_s * rate_hz))
            self._rate_hz = rate_hz
            self._detector = self._new_detector()
        mono = await take_samples(samples, self._reader, limits)
        return mono.copy()  # the caller may fill the same buffer again

    async def hear(self, samples: AudioArray) -> None:
        """The audio that follows."""
        assert self._buffer is not None and self._detector is not None, "`take` makes them"
        self._buffer.push(samples)
        for event in await asyncio.to_thread(self._detector.push, samples):
            await self._follow(event)
        await self._feed()

    async def commit(self, committed_s: float) -> str:
        """See `Conversation.commit`."""
        if self._buffer is None or not len(self._buffer):
            raise InvalidRequest("input_audio_buffer: expected audio since the last turn, got none")
        if self._turn is None:  # nothing in it seems to be speech: it is for the model to say
            await self._begin(self._buffer.begin)
        turn = self._turn
        assert turn is not None and self._detector is not None
        end = turn.paused_at if turn.paused_at is not None else self._buffer.end
        self._detector.drop()
        try:
            return await self._end(turn, end, committed_s)
        finally:
            self._buffer.forget(self._buffer.end)

    async def clear(self) -> None:
        """See `Conversation.clear`."""
        await self._forget_turn()
        if self._buffer is not None and self._detector is not None:
            self._buffer.forget(self._buffer.end)
            self._detector.drop()
        self._emit(InputCleared())

    async def update(self, settings: ConversationSettings) -> None:
        """See `Conversation.update`."""
        before, self._settings = self._settings, settings
        changed = (before.turn_detection, before.activity) != (settings.turn_detection, settings.activity)
        if changed and self._detector is not None:
            await self._forget_turn()
            self._origin = self._origin + self._detector.num_samples
            self._detector = self._new_detector()

    async def close(self) -> None:
        """Hear no more."""
        await self._forget_turn()
        for task in list(self._transcribing):
            task.cancel()

    def _new_detector(self) -> TurnDetector:
        # Where the client says when a turn ends, only its bounds and its pauses are wanted.
        detection = self._settings.turn_detection or TurnDetection(silence_duration_ms=MAX_SILENCE_MS)
        return TurnDetector(detection, voice_activity(self._settings.activity), self._rate_hz)

    # --- turns ------------------------------------------------------------------------------------

    async def _follow(self, event: TurnEvent) -> None:
        at, turn, detection = self._origin + event.at, self._turn, self._settings.turn_detection
        if isinstance(event, IdleTimeout):
            idle_s = 0 if detection is None else (detection.idle_timeout_ms or 0) / 1000
            self._emit(InputTimedOut(at / self._rate_hz - idle_s, at / self._rate_hz))
        elif turn is None:
            if isinstance(event, SpeechStarted):
                if detection is not None and detection.interrupt_response:
                    await self._replying.interrupt()
                await self._begin(at)
        elif isinstance(event, SpeechPaused):
            turn.paused_at = at
            await self._push(turn, at)
            self._peek(turn, at)
        elif isinstance(event, SpeechEnded):
            if detection is not None:
                with suppress(InvalidRequest):  # it was told as `NotHeard`
                    await self._end(turn, at)
        else:  # it goes on, or begins again where only the client says that it is over
            turn.paused_at = None
            self._replying.drop_ahead()

    async def _begin(self, at: int) -> None:
        turn = self._turn = SpokenTurn(new_id("item"), at, self._rate_hz)
        self._fault = None
        if self._settings.turn_detection is not None:
            self._emit(SpeechBegun(turn.item_id, at / self._rate_hz))
        options = self._settings.reply
        request = Request(
            messages=self._history.messages(options.system, (Units(()),)),
            modalities=options.modalities,
            system=options.system,
            voice=options.voice,
        )
        try:
            await turn.open(self._engine.open(request, options.sampling_params), self._note_update)
        except Exception as error:  # noqa: BLE001 - it concerns this turn alone
            self._fault = told(error)

    async def _feed(self) -> None:
        """Give the model what surely belongs to the turn, and let go of what belongs to none."""
        assert self._buffer is not None and self._detector is not None
        if self._turn is not None:
            if self._turn.paused_at is None:
                await self._push(self._turn, self._origin + self._detector.num_judged)
            self._buffer.forget(self._turn.num_read)
        elif self._settings.turn_detection is not None:
            padding_s = self._settings.turn_detection.prefix_padding_ms / 1000 + SPARE_S
            self._buffer.forget(self._buffer.end - int(padding_s * self._rate_hz))

    async def _push(self, turn: SpokenTurn, end: int) -> None:
        assert self._buffer is not None
        if self._fault is None and end > turn.num_read:
            try:
                await turn.push(self._buffer.read(turn.num_read, end))
            except Exception as error:  # noqa: BLE001 - it concerns this turn alone
                self._fault = told(error)

    def _note_update(self, turn: SpokenTurn, update: TranscriptUpdate) -> None:
        self._post(partial(self._updated, turn, update))

    async def _updated(self, turn: SpokenTurn, update: TranscriptUpdate) -> None:
        if self._turn is not turn or self._detector is None:
            return
        if update.text != turn.text:
            turn.text = update.text
            self._emit(HeardUpdate(turn.item_id, update.text))
        for event in self._detector.heard(update.text, update.num_trailing_blanks, update.num_units):
            await self._follow(event)

    # --- a pause, which may be the end ---------------------------------------------------------------

    def _peek(self, turn: SpokenTurn, at: int) -> None:
        if self._fault is not None:
            return

        async def peek() -> None:
            try:
                units = await turn.peek()
            except Exception as error:  # noqa: BLE001 - it concerns this turn alone
                self._post(partial(self._failed, turn, told(error)))
                return
            if turn.paused_at == at:
                turn.units = Units(tuple(units))
                self._post(partial(self._peeked, turn, at))

        turn.peeking = asyncio.create_task(peek())

    async def _failed(self, turn: SpokenTurn, error: str) -> None:
        if self._turn is turn:
            self._fault = error

    async def _peeked(self, turn: SpokenTurn, at: int) -> None:
        if self._turn is turn and turn.paused_at == at and turn.units is not None and self._may_speculate:
            self._replying.speculate(self._settings.reply, turn.units, turn.item_id)

    @property
    def _may_speculate(self) -> bool:
        return self._settings.speculate and (
            self._settings.turn_detection is None or self._settings.turn_detection.create_response
        )

    async def _end(self, turn: SpokenTurn, at: int, committed_s: float | None = None) -> str:
        """The turn becomes an item. committed_s: when the client committed it; None: turn detection has ended
        it, and may want a reply. InvalidRequest if it could not be heard."""
        if turn.paused_at != at or turn.peeking is None:
            turn.paused_at = at
            await self._push(turn, at)
            self._peek(turn, at)
        if turn.peeking is not None:
            await asyncio.wait([turn.peeking])
        self._turn = None
        detection = self._settings.turn_detection
        if detection is not None:
            self._emit(SpeechStopped(turn.item_id, at / self._rate_hz))
        if turn.units is None:
            fault = self._fault or "the speech could not be read"
            self._replying.drop_ahead()
            await turn.close()
            self._emit(NotHeard(turn.item_id, fault))
            raise InvalidRequest(f"input_audio_buffer: {fault}")
        item = Item("user", (turn.units,), turn.item_id)
        previous = self._history.add(item)
        self._emit(InputCommitted(turn.item_id, previous))
        self._emit(ItemAdded(item, previous))
        if committed_s is None and detection is not None and detection.create_response:
            await self._replying.answer(self._settings.reply, turn.item_id)
        elif self._replying.hears(turn.item_id):
            self._replying.turn_is_over(turn.item_id)
        else:
            self.transcribe(turn.item_id)
        self._emit(ItemDone(item, previous))
        await turn.close()
        return turn.item_id

    def transcribe(self, item_id: str) -> None:
        """Have a transcript made of a turn that no reply reads."""
        if not self._history.holds(item_id):
            return
        units = next(part for part in self._history.find(item_id).parts if isinstance(part, Units))

        async def transcribe() -> None:
            try:
                done = await self._engine.generate(Request(units, modalities=("transcript",)))
            except Exception as error:  # noqa: BLE001 - it concerns this transcript alone
                self._emit(NotHeard(item_id, told(error)))
                return
            self._post(partial(self._heard, item_id, done.transcript.strip(), units))

        task = asyncio.create_task(transcribe())
        self._transcribing.add(task)
        task.add_done_callback(self._transcribing.discard)

    async def _heard(self, item_id: str, text: str, units: Units) -> None:
        if self._history.holds(item_id):
            self._history.change(replace(self._history.find(item_id), transcript=text))
        self._emit(Heard(item_id, text, len(units.units) / UNITS_PER_S))

    async def _forget_turn(self) -> None:
        turn, self._turn = self._turn, None
        self._replying.drop_ahead()
        if turn is not None:
            await turn.close()
