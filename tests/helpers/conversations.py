"""Conversations in tests: the order of their events checked, and sound whose speech is certain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from checkpoints import RANDOM_CODEC, RANDOM_MODEL

from antiphon import AsyncEngine, Completion, Engine, SamplingParams, Units
from antiphon.conversation import (
    Conversation,
    ConversationEvent,
    ConversationSettings,
    Heard,
    HeardUpdate,
    InputCleared,
    InputCommitted,
    InputTimedOut,
    Item,
    ItemAdded,
    ItemDone,
    ItemRemoved,
    ItemTruncated,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplyOptions,
    ReplySpoken,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
)
from antiphon.sound.arrays import AudioArray
from antiphon.turns.frames import FRAME_SAMPLES, RATE_HZ, Frames

__all__ = [
    "BY_HAND",
    "LONG",
    "RATE_HZ",
    "SETTINGS",
    "SHORT",
    "Reader",
    "Story",
    "Told",
    "completion",
    "conversing",
    "do_nothing",
    "frames",
    "idle",
    "load_speaking",
    "push",
    "settled",
    "silence",
    "speech",
    "tokenized",
    "units_of",
]

E = TypeVar("E", bound=ConversationEvent)
PATIENCE_S = 60
"""A reader that waits longer for an event fails, instead of hanging."""
SHORT = SamplingParams(max_tokens=8, max_units=20)
LONG = SamplingParams(max_tokens=40, max_units=150, ignore_eos=True)
SETTINGS = ConversationSettings(reply=ReplyOptions(sampling_params=SHORT))
BY_HAND = replace(SETTINGS, turn_detection=None)


class Story:
    """Checks that the events of a conversation come in order, one by one. It speaks no dialect, so that an
    adapter's tests can use it on the conversation below them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        """The ids of the items that are there."""
        self._expected: list[Callable[[ConversationEvent], bool]] = []
        """What the next events have to be."""
        self._turn: str | None = None
        self._ids: set[str] = set()
        self._turns: set[str] = set()
        self._told: set[str] = set()
        self._roles: dict[str, str] = {}
        self._growing: set[str] = set()
        self._removed: set[str] = set()
        self._replies: dict[str, ReplyBegun] = {}
        self._kept: set[str] = set()
        self._text: dict[str, int] = {}
        self._sound_s: dict[str, float] = {}
        self._spoken: dict[str, tuple[int, float]] = {}
        self._num_replies = 0
        self._has_ended = False

    def take(self, event: ConversationEvent) -> None:
        """The next event."""
        assert not self._has_ended, f"after the end: {event}"
        if self._expected:
            assert self._expected.pop(0)(event), f"out of order: {event}"
        match event:
            case SpeechStarted():
                assert self._turn is None, "a turn goes on"
                self._turn = self._new(event.item_id)
            case SpeechStopped():
                assert self._turn == event.item_id
                assert event.delay_s >= 0
                self._turn = None
            case InputCleared():
                self._turn = None
            case InputTimedOut():
                assert self._turn is None
                assert event.start_s <= event.end_s
            case HeardUpdate():
                assert event.item_id not in self._roles, "the turn is over"
                assert self._turn in (None, event.item_id)
            case InputCommitted():
                self._turns.add(event.item_id)
                self._ids.discard(event.item_id)  # `SpeechStarted` has named it
                self._expected = [_adds(event), _finishes(event.item_id)]
            case Heard():
                assert event.item_id in self._turns, "the turn is not over"
                self._tell(event.item_id)
            case NotHeard():
                assert self._turn != event.item_id
                self._tell(event.item_id)
            case ItemAdded():
                self._add(event.item, event.previous_id)
            case ItemDone():
                assert event.item.item_id in self._growing
                assert event.item.status != "in_progress"
                assert self._previous(event.item.item_id) == event.previous_id
                self._growing.remove(event.item.item_id)
            case ItemRemoved():
                self.order.remove(event.item_id)
                self._removed.add(event.item_id)
                self._growing.discard(event.item_id)
            case ItemTruncated():
                assert event.item_id in self.order
                assert self._roles[event.item_id] == "assistant"
            case ReplyBegun():
                self._new(event.reply_id)
                self._replies[event.reply_id] = event
                self._text[event.reply_id], self._sound_s[event.reply_id] = 0, 0.0
                self._spoken[event.reply_id] = (0, 0.0)
                self._num_replies += 1
            case ReplyText() | ReplyAudio() | ReplySpoken():
                assert self._replies[event.reply_id].item_id == event.item_id
                self._grow(event)
            case ReplyEnded():
                begun = self._replies.pop(event.reply_id)
                assert begun.item_id == event.item_id not in self._growing, "its item is not done"
                assert (event.status == "failed") == (event.error is not None)
                self._kept.discard(event.item_id)
                self._growing.discard(event.item_id)

    def end(self, *, all_told: bool = False) -> None:
        """There are no more. all_told: nothing was closed before its time, so every turn was heard."""
        assert not self._has_ended, "it ends once"
        self._has_ended = True
        assert not self._expected
        assert not self._replies, "a reply has not ended"
        assert not self._growing, "an item is not done"
        assert not all_told or self._turns - self._removed <= self._told, "a turn was not told"

    def _new(self, new: str) -> str:
        assert new not in self._ids, f"{new} has been before"
        self._ids.add(new)
        return new

    def _tell(self, item_id: str) -> None:
        assert item_id not in self._told, "it is told once"
        assert item_id not in self._removed
        self._told.add(item_id)

    def _add(self, item: Item, previous: str | None) -> None:
        assert item.item_id not in self.order
        index = 0 if previous is None else self.order.index(previous) + 1
        self.order.insert(index, item.item_id)
        self._roles[item.item_id] = item.role
        self._removed.discard(item.item_id)
        self._growing.add(item.item_id)
        if item.status == "in_progress":
            assert item.role == "assistant"
            assert item.item_id in {begun.item_id for begun in self._replies.values()}
            assert not self._kept, "another reply is being made"
            self._kept.add(item.item_id)

    def _previous(self, item_id: str) -> str | None:
        index = self.order.index(item_id)
        return self.order[index - 1] if index else None

    def _grow(self, event: ReplyText | ReplyAudio | ReplySpoken) -> None:
        reply = event.reply_id
        if isinstance(event, ReplyText):
            self._text[reply] += len(event.text)
        elif isinstance(event, ReplyAudio):
            assert abs(event.start_s - self._sound_s[reply]) < 1e-6, "there is a gap in the sound"
            self._sound_s[reply] += len(event.samples) / event.sample_rate_hz
        else:
            chars, end_s = self._spoken[reply]
            assert chars < event.num_chars <= self._text[reply]
            assert event.end_s >= end_s
            self._spoken[reply] = event.num_chars, event.end_s


def _adds(committed: InputCommitted) -> Callable[[ConversationEvent], bool]:
    return lambda event: (
        isinstance(event, ItemAdded)
        and (event.item.item_id, event.previous_id) == (committed.item_id, committed.previous_id)
        and event.item.role == "user"
    )


def _finishes(item_id: str) -> Callable[[ConversationEvent], bool]:
    return lambda event: isinstance(event, ItemDone) and event.item.item_id == item_id


class Reader:
    """Reads a conversation's events in a task of its own, and checks their order."""

    def __init__(self, talk: Conversation) -> None:
        self.events: list[ConversationEvent] = []
        self.story = Story()
        self._talk = talk
        self._num_seen = 0
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def next(self, kind: type[E]) -> E:
        """The next event of a kind after the one that was returned before."""
        while True:
            while self._num_seen < len(self.events):
                event = self.events[self._num_seen]
                self._num_seen += 1
                if isinstance(event, kind):
                    return event
            assert not self._task.done(), f"it ended without {kind.__name__}: {self._task}"
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), PATIENCE_S)

    async def end(self, *, all_told: bool = False) -> list[ConversationEvent]:
        """All events, once there are no more."""
        await self._task
        self.story.end(all_told=all_told)
        return self.events

    async def _read(self) -> None:
        try:
            async for event in self._talk:
                self.story.take(event)
                self.events.append(event)
                self._more.set()
        finally:
            self._more.set()


@asynccontextmanager
async def conversing(
    engine: AsyncEngine, settings: ConversationSettings | None = None, *, all_told: bool = False
) -> AsyncIterator[tuple[Conversation, Reader]]:
    """A conversation, and what reads it. At the end, its events made a whole story."""
    async with engine.converse(settings) as talk:
        reader = Reader(talk)
        yield talk, reader
    await reader.end(all_told=all_told)


class Told:
    """A `VoiceActivity` that is told what it is to say: the first sample of each frame, if that is 0 or 1."""

    rate_hz = RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(self) -> None:
        self._frames = Frames(FRAME_SAMPLES)

    def push(self, samples: AudioArray) -> list[float]:
        return [float(frame[0] == 1) for frame in self._frames.push(samples)]

    def reset(self) -> None:
        self._frames.reset()


def frames(seconds: float) -> int:
    """That number of frames, rounded."""
    return round(seconds * RATE_HZ / FRAME_SAMPLES)


def speech(seconds: float, seed: int = 0) -> AudioArray:
    """Sound that `Told` takes for speech, in whole frames."""
    samples = 0.3 * np.random.default_rng(seed).standard_normal((frames(seconds), FRAME_SAMPLES))
    samples = np.clip(samples, -0.9, 0.9)
    samples[:, 0] = 1
    return samples.astype(np.float32).ravel()


def silence(seconds: float) -> AudioArray:
    """And for silence."""
    return np.zeros(frames(seconds) * FRAME_SAMPLES, np.float32)


def load_speaking(**settings: Any) -> Engine:
    return Engine(
        RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", kv_cache_bytes=32 << 20, progress=False, **settings
    )


async def idle(engine: AsyncEngine) -> None:
    """Wait until the engine has carried out what it was told last, and nothing runs."""
    await engine.abort("nothing")
    while engine.engine.has_unfinished():
        await asyncio.sleep(0.001)


async def push(talk: Conversation, *sounds: np.ndarray, size: int = 1600) -> None:
    samples = np.concatenate(sounds)
    for begin in range(0, len(samples), size):
        await talk.push_audio(samples[begin : begin + size], RATE_HZ)


def completion(talk: Conversation, item_id: str) -> Completion:
    """What the engine told of an ended reply."""
    done = talk._replying._past[item_id].completion
    assert done is not None
    return done


def units_of(item: Item) -> list[int]:
    return [unit for part in item.parts if isinstance(part, Units) for unit in part.units]


def tokenized(engine: AsyncEngine, samples: np.ndarray) -> list[int]:
    assert engine.engine.codec is not None
    return engine.engine.codec.tokenize(samples, RATE_HZ)


async def settled(talk: Conversation) -> None:
    """Wait until the turn's last pause has been read, and what follows from it has been done."""
    turn = talk._listening._turn
    assert turn is not None
    await turn.settled()
    await talk._do(do_nothing)


async def do_nothing() -> None:
    """A job for `Conversation._do`: all that was posted before has then been done."""
