"""Conversations by voice, from `AsyncEngine.converse`: their settings, items and events.

Importing this imports torch, as importing an engine does.
"""

from antiphon.aio.conversation.conversation import Conversation
from antiphon.aio.conversation.events import (
    ConversationEvent,
    Heard,
    HeardUpdate,
    InputCleared,
    InputCommitted,
    InputTimedOut,
    ItemAdded,
    ItemDone,
    ItemRemoved,
    ItemTruncated,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplySpoken,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
)
from antiphon.aio.conversation.items import History, Item
from antiphon.aio.conversation.replying import Speculation
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.turns.settings import TurnDetection

__all__ = [
    "Conversation",
    "ConversationEvent",
    "ConversationSettings",
    "Heard",
    "HeardUpdate",
    "History",
    "InputCleared",
    "InputCommitted",
    "InputTimedOut",
    "Item",
    "ItemAdded",
    "ItemDone",
    "ItemRemoved",
    "ItemTruncated",
    "NotHeard",
    "ReplyAudio",
    "ReplyBegun",
    "ReplyEnded",
    "ReplyOptions",
    "ReplySpoken",
    "ReplyText",
    "Speculation",
    "SpeechStarted",
    "SpeechStopped",
    "TurnDetection",
]
