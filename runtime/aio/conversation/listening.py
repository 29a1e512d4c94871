"""The user's side of a conversation: turns are found in the audio, and become items."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.aio.client_input import take_samples
from antiphon.aio.conversation.audio_buffer import AudioBuffer
from antiphon.aio.conversation.events import (
    ConversationEvent,
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
from antiphon.aio.conversation.items import History, Item, new_id, num_units
from antiphon.aio.conversation.settings import ConversationSettings
from antiphon.aio.conversation.turn import SpokenTurn
from antiphon.errors import InvalidRequest
from antiphon.turns.activity import voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.events import IdleTimeout, SpeechEnded, SpeechPaused, SpeechStarted, TurnEvent
from antiphon.turns.settings import MAX_SILENCE_MS, TurnDetection
from antiphon.types import Request, TranscriptUpdate, Units

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering
    from antiphon.aio.conversation.replying import Replying
    from antiphon.aio.conversation.retention import Retention
    from antiphon.sound.arrays import AudioArray

__all__ = ["Listening"]

SPARE_S = 1.0
"""What is kept of the audio before a turn, beyond the padding that the turn takes of it."""


class Listening:
    """The part of a conversation that hears. Its methods but `take` are called by the conversation's task."""

    def __init__(
        self,
        engine: Answering,
        history: History,
        replying: Replying,
        retention: Retention,
        settings: ConversationSettings,
        emit: Callable[[ConversationEvent], None],
        post: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """emit: gets events. post: has something done by the conversation's task, in its turn."""
        self.endpoint_delay_s: float | None = None
        """See `Conversation.endpoint_delay_s`."""
        self._engine = engine
        self._history = history
        self._replying = replying
        self._retention = retention
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
        self._watches_idle = True

    async def take(self, samples: Any, rate_hz: int) -> tuple[AudioArray, int]:
        """A piece of audio as mono float32 (n,), and its rate. Raises InvalidRequest."""
        # Sound libraries are loaded by the first conversation that brings sound.
        from antiphon.sound.reading import check_rate
        from antiphon.sound.samples import SampleReader

        if self._engine.engine.codec is None:
            raise InvalidRequest("audio: no codec is loaded to hear it with")
        if self._reader is None:
            self._reader = SampleReader()
        mono = await take_samples(samples, self._reader, self._engine.engine.config.limits)
        return mono.copy(), check_rate(rate_hz)  # the caller may fill the same buffer again

    async def hear(self, samples: AudioArray, rate_hz: int) -> None:
        """The audio that follows. Nothing has changed if it raises InvalidRequest or ConfigError."""
        if self._rate_hz not in (0, rate_hz):
            raise InvalidRequest(
                f"audio: expected the rate of the first piece, {self._rate_hz}, got {rate_hz}"
            )
        if not len(samples):
            return
        if self._detector is None or self._buffer is None:
            limits = self._engine.engine.config.limits
            self._detector = await _detector(self._settings, rate_hz)
            self._buffer, self._rate_hz = AudioBuffer(int(limits.max_audio_s * rate_hz)), rate_hz
        self._buffer.push(samples)
        is_quiet = not self._replying.is_busy
        if is_quiet is not self._watches_idle:
            self._watches_idle = is_quiet
            self._detector.watch_idle(is_quiet)
        for event in await asyncio.to_thread(self._detector.push, samples):
            await self._follow(event)
        await self._feed()

    async def commit(self) -> str:
        """See `Conversation.commit`."""
        turn = self._turn
        if self._buffer is None or self._detector is None or (turn is None and not len(self._buffer)):
            raise InvalidRequest("input_audio_buffer: expected audio since the last turn, got none")
        if turn is None:  # nothing in it seems to be speech: it is for the model to say
            turn = await self._begin(self._buffer.begin)
        end = turn.paused_at if turn.paused_at is not None else self._buffer.end
        self._detector.drop()
        item = await self._end(turn, end)
        self._buffer.forget(self._buffer.end)
        if item is None:
            raise InvalidRequest(f"input_audio_buffer: {turn.fault}")
        self._replying.turn_is_over(turn.item_id)
        return turn.item_id

    async def clear(self) -> None:
        """See `Conversation.clear`."""
        await self._forget()
        if self._detector is not None:
            self._detector.drop()
        self._emit(InputCleared())

    async def update(self, settings: ConversationSettings) -> None:
        """See `Conversation.update`. Nothing has changed if it raises."""
        before, detector = self._settings, self._detector
        changed = (before.turn_detection, before.activity) != (settings.turn_detection, settings.activity)
        if changed and detector is not None and self._buffer is not None:
            detector = await _detector(settings, self._rate_hz)
            if self._turn is not None:
                await self._forget()
                self._emit(InputCleared())
            self._origin = self._buffer.end
            self._watches_idle = True
        self._settings, self._detector = settings, detector

    async def close(self) -> None:
        """Hear no more."""
        await self._forget()

    # --- turns ------------------------------------------------------------------------------------

    async def _follow(self, event: TurnEvent) -> None:
        at, turn, detection = self._origin + event.at, self._turn, self._settings.turn_detection
        if isinstance(event, IdleTimeout):
            idle_s = 0 if detection is None else (detection.idle_timeout_ms or 0) / 1000
            self._emit(InputTimedOut(max(0.0, at / self._rate_hz - idle_s), at / self._rate_hz))
        elif turn is None:
            if isinstance(event, SpeechStarted):
                if detection is not None and detection.interrupt_response:
                    await self._replying.interrupt()
                await self._begin(at)
        elif isinstance(event, SpeechPaused):
            await self._push(turn, at)
            turn.pause(at, self._note_peeked)
        elif isinstance(event, SpeechEnded):
            if detection is not None:
                await self._end_by_itself(turn, at, detection)
        else:  # it goes on, or begins again where only the client says that it is over
            turn.resume()
            self._replying.drop_ahead()

    async def _begin(self, at: int) -> SpokenTurn:
        messages = self._retention.read(self._settings.reply, (Units(()),), is_growing=True)
        num_before = num_units(messages[-1])
        turn = self._turn = SpokenTurn(new_id("item"), at, self._rate_hz, num_before)
        self._watches_idle = True  # the detector counts from the end of the turn
        if self._settings.turn_detection is not None:
            self._emit(SpeechBegun(turn.item_id, at / self._rate_hz))
        # What does not concern the prompt is left to the reply.
        options = self._settings.reply
        request = Request(messages=messages, modalities=options.modalities, system=options.system)
        await turn.open(self._engine.open(request), self._note_update)
        return turn

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
        await turn.push(self._buffer.read(turn.num_read, end))

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

    # --- a pause, which may be the end ------------------------------------------------------------

    def _note_peeked(self, turn: SpokenTurn) -> None:
        self._post(partial(self._peeked, turn, turn.paused_at))

    async def _peeked(self, turn: SpokenTurn, at: int | None) -> None:
        if self._turn is turn and turn.paused_at == at and turn.units is not None and self._may_speculate:
            self._replying.speculate(self._settings.reply, turn.units, turn.item_id)

    @property
    def _may_speculate(self) -> bool:
        detection = self._settings.turn_detection
        return self._settings.speculate and (detection is None or detection.create_response)

    async def _end_by_itself(self, turn: SpokenTurn, at: int, detection: TurnDetection) -> None:
        """Turn detection says that the turn is over."""
        item = await self._end(turn, at)
        if item is None:
            self._emit(NotHeard(turn.item_id, turn.fault or "the speech could not be read"))
        elif detection.create_response:
            await self._replying.answer(self._settings.reply, turn.item_id)
        else:
            self._replying.turn_is_over(turn.item_id)

    async def _end(self, turn: SpokenTurn, at: int) -> Item | None:
        """The turn becomes an item; None if it could not be read."""
        assert self._detector is not None
        if turn.paused_at != at:
            await self._push(turn, at)
            turn.pause(at, lambda turn: None)
        await turn.settled()
        self._turn = None
        self._retention.note_turn((at - turn.start) / self._rate_hz)
        if self._settings.turn_detection is not None:
            self.endpoint_delay_s = (self._origin + self._detector.num_samples - at) / self._rate_hz
            self._emit(SpeechStopped(turn.item_id, at / self._rate_hz, self.endpoint_delay_s))
        item = None
        if turn.units is None:
            self._replying.drop_ahead()
        else:
            item = Item("user", (turn.units,), turn.item_id, said_s=(at - turn.start) / self._rate_hz)
            previous = self._history.add(item)
            self._emit(InputCommitted(turn.item_id, previous))
            self._emit(ItemAdded(item, previous))
            self._emit(ItemDone(item, previous))
        await turn.close()
        return item

    async def _forget(self) -> None:
        """Let go of the turn, and of all audio."""
        turn, self._turn = self._turn, None
        if self._buffer is not None:
            self._buffer.forget(self._buffer.end)
        if turn is not None:
            self._replying.drop_ahead()
            await turn.close()


async def _detector(settings: ConversationSettings, rate_hz: int) -> TurnDetector:
    """A new one, made in a thread: the network that it needs may have to be loaded."""
    # Where the client says when a turn ends, only its bounds and its pauses are wanted.
    detection = settings.turn_detection or TurnDetection(silence_duration_ms=MAX_SILENCE_MS)
    return await asyncio.to_thread(
        lambda: TurnDetector(detection, voice_activity(settings.activity), rate_hz)
    )
