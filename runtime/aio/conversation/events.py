"""What happens in a conversation, as its client is told. Times are in seconds of the user's audio, from the
first sample of the conversation, unless they say otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from antiphon.aio.conversation.items import Item
from antiphon.aio.conversation.settings import ReplyOptions
from antiphon.types import RequestMetrics

__all__ = [
    "ConversationEvent",
    "Heard",
    "HeardUpdate",
    "InputCleared",
    "InputCommitted",
    "InputTimedOut",
    "ItemAdded",
    "ItemDone",
    "ItemRemoved",
    "ItemTruncated",
    "NotHeard",
    "ReplyAudio",
    "ReplyBegun",
    "ReplyEnded",
    "ReplySpoken",
    "ReplyText",
    "SpeechStarted",
    "SpeechStopped",
]

ReplyStatus = Literal["completed", "cancelled", "failed", "incomplete"]
EndReason = Literal["turn_detected", "client_cancelled", "max_output_tokens"]


# --- the user's side ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeechStarted:
    """The user has begun to speak."""

    item_id: str
    """The item that this turn will become."""
    at_s: float
    """Where the turn's audio begins, with some of what was before it."""


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over: `InputCommitted` follows, or `NotHeard` if its speech could not be read."""

    item_id: str
    at_s: float
    """Where the turn's audio ends, with a tenth of a second of what follows its speech."""
    delay_s: float = 0.0
    """How much audio had come after that before the turn was taken to be over."""


@dataclass(frozen=True)
class InputCommitted:
    """The turn has become an item; its `ItemAdded` and `ItemDone` follow."""

    item_id: str
    previous_id: str | None


@dataclass(frozen=True)
class InputCleared:
    """What was said since the last commit is forgotten, also a turn that had begun: the client has asked for
    it, or has changed how turns are detected."""


@dataclass(frozen=True)
class InputTimedOut:
    """Nobody has spoken for as long as `TurnDetection.idle_timeout_ms` says."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class HeardUpdate:
    """What has been heard of a turn that goes on: the whole of it, in place of the update before."""

    item_id: str
    text: str


@dataclass(frozen=True)
class Heard:
    """The transcript of a turn that has become an item. It comes some time after the item."""

    item_id: str
    text: str
    seconds: float
    """Length of the speech."""


@dataclass(frozen=True)
class NotHeard:
    """What was said in a turn is not known. If the turn had not become an item, it never will: its speech
    could not be read, for example since it was too long, or since too many requests were waiting."""

    item_id: str
    error: str


# --- the conversation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemAdded:
    """An item has its place. One of the user's is complete; a reply still grows."""

    item: Item
    previous_id: str | None


@dataclass(frozen=True)
class ItemDone:
    """An item will not grow any more."""

    item: Item
    previous_id: str | None


@dataclass(frozen=True)
class ItemRemoved:
    """The client has had an item deleted."""

    item_id: str


@dataclass(frozen=True)
class ItemTruncated:
    """A reply counts as heard up to here only; its text in the history ends with the last word before it."""

    item_id: str
    audio_end_s: float
    """On the clock of the reply's own sound."""


# --- the model's side -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplyBegun:
    """A reply is made. If it is to stay in the conversation, the `ItemAdded` of its item follows."""

    reply_id: str
    item_id: str
    options: ReplyOptions
    """How it is made."""


@dataclass(frozen=True)
class ReplyText:
    """More of the reply's text, ahead of its sound."""

    reply_id: str
    item_id: str
    text: str


@dataclass(frozen=True, eq=False)
class ReplyAudio:
    """More of the reply's sound: float32 (samples,)."""

    reply_id: str
    item_id: str
    samples: np.ndarray
    sample_rate_hz: int
    start_s: float
    """Where it begins in the reply's sound."""


@dataclass(frozen=True)
class ReplySpoken:
    """How far the text has been spoken by a moment of the reply's sound."""

    reply_id: str
    item_id: str
    num_chars: int
    """Characters of the reply's text that have been begun."""
    end_s: float
    """The moment, on the clock of the reply's own sound."""


@dataclass(frozen=True)
class ReplyEnded:
    """The last event of a reply, whatever happened to it. Its item may still be truncated."""

    reply_id: str
    item_id: str
    status: ReplyStatus
    reason: EndReason | None = None
    """Why it was cancelled or is incomplete."""
    error: str | None = None
    """Why it failed."""
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    num_text: int = 0
    """Text ids of the reply."""
    num_units: int = 0
    """Units of its speech."""


ConversationEvent: TypeAlias = (
    SpeechStarted
    | SpeechStopped
    | InputCommitted
    | InputCleared
    | InputTimedOut
    | HeardUpdate
    | Heard
    | NotHeard
    | ItemAdded
    | ItemDone
    | ItemRemoved
    | ItemTruncated
    | ReplyBegun
    | ReplyText
    | ReplyAudio
    | ReplySpoken
    | ReplyEnded
)
