"""What happens in a conversation, as events of the Realtime API in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

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
from antiphon.server.realtime.heard import GrowingTranscript
from antiphon.server.realtime.items import item_json
from antiphon.server.realtime.response import Put, Response, Wanted
from antiphon.server.realtime.session_config import RealtimeConfig, SessionConfig

__all__ = ["Telling", "ms"]

MAX_GROWING = 16
"""Turns whose transcripts are under way: one that is forgotten has no last event."""


class Telling:
    """Turns the events of one conversation into those of its client. Remembers what is under way."""

    def __init__(self, config: SessionConfig, conversation_id: str, put: Put) -> None:
        self.config = config
        """As it is now."""
        self.beginning = asyncio.Lock()
        """Held while a response is begun, until `wanted` has it."""
        self.wanted: dict[str, Wanted] = {}
        """Responses that the client has asked for and that have not been told yet, by their ids."""
        self.dropped: str | None = None
        """A response that was cancelled, of whose sound nothing more need be sent."""
        self._conversation_id = conversation_id
        self._send = put
        self._responses: dict[str, Response] = {}
        self._growing: dict[str, GrowingTranscript] = {}
        self._last_item: str | None = None
        self._telling: dict[type[Any], Callable[[Any], Any]] = {
            SpeechStarted: self._speech_started,
            SpeechStopped: self._speech_stopped,
            InputCommitted: self._committed,
            InputCleared: self._cleared,
            InputTimedOut: self._timed_out,
            HeardUpdate: self._heard_update,
            Heard: self._heard,
            NotHeard: self._not_heard,
            ItemAdded: self._item_added,
            ItemDone: self._item_done,
            ItemRemoved: self._item_removed,
            ItemTruncated: self._item_truncated,
            ReplyText: lambda event: self._responses[event.reply_id].said(event.text),
        }

    @property
    def num_responses(self) -> int:
        """Those under way."""
        return len(self._responses)

    async def tell(self, event: ConversationEvent) -> None:
        """Send what the event means."""
        if isinstance(event, ReplyBegun):
            await self._begun(event)
        elif isinstance(event, ReplyAudio):
            await self._responses[event.reply_id].sounded(event)
        elif isinstance(event, ReplySpoken):
            if self.config.antiphon_events:
                self._responses[event.reply_id].spoken(event.num_chars, event.end_s)
        elif isinstance(event, ReplyEnded):
            if event.status == "cancelled":
                self.dropped = event.reply_id
            self._responses.pop(event.reply_id).ended(event)
        else:
            self._telling[type(event)](event)

    def _put(self, kind: str, **fields: Any) -> None:
        self._send({"type": kind, **fields})

    # --- the user's side --------------------------------------------------------------------------

    def _speech_started(self, event: SpeechStarted) -> None:
        fields = {"audio_start_ms": ms(event.at_s), "item_id": event.item_id}
        self._put("input_audio_buffer.speech_started", **fields)

    def _speech_stopped(self, event: SpeechStopped) -> None:
        end_ms = ms(event.at_s)
        fields: dict[str, Any] = {"audio_end_ms": end_ms, "item_id": event.item_id}
        if self.config.antiphon_events:
            fields["delay_ms"] = ms(event.at_s + event.delay_s) - end_ms
        self._put("input_audio_buffer.speech_stopped", **fields)

    def _committed(self, event: InputCommitted) -> None:
        fields = {"item_id": event.item_id, "previous_item_id": self._previous(event.previous_id)}
        self._put("input_audio_buffer.committed", **fields)

    def _cleared(self, _: InputCleared) -> None:
        self._growing.clear()
        self._put("input_audio_buffer.cleared")

    def _timed_out(self, event: InputTimedOut) -> None:
        fields = {"audio_start_ms": ms(event.start_s), "audio_end_ms": ms(event.end_s)}
        self._put("input_audio_buffer.timeout_triggered", **fields, item_id=self._last_item or "")

    def _heard_update(self, event: HeardUpdate) -> None:
        growing = self._growing.setdefault(event.item_id, GrowingTranscript())
        while len(self._growing) > MAX_GROWING:
            del self._growing[next(iter(self._growing))]
        self._transcript_delta(event.item_id, growing.update(event.text.strip()))

    def _heard(self, event: Heard) -> None:
        growing = self._growing.pop(event.item_id, None) or GrowingTranscript()
        if self.config.audio.input.transcription is None:
            return
        self._transcript_delta(event.item_id, growing.finish(event.text))
        usage = {"type": "duration", "seconds": event.seconds}
        self._transcription(event.item_id, "completed", transcript=event.text, usage=usage)

    def _not_heard(self, event: NotHeard) -> None:
        self._growing.pop(event.item_id, None)
        if self.config.audio.input.transcription is None:
            return
        error = {"type": "server_error", "code": "not_heard", "message": event.error, "param": None}
        self._transcription(event.item_id, "failed", error=error)

    def _transcript_delta(self, item_id: str, text: str) -> None:
        if text and self.config.audio.input.transcription is not None:
            self._transcription(item_id, "delta", delta=text)

    def _transcription(self, item_id: str, what: str, **fields: Any) -> None:
        kind = f"conversation.item.input_audio_transcription.{what}"
        self._put(kind, item_id=item_id, content_index=0, **fields)

    # --- the conversation -------------------------------------------------------------------------

    def _item_added(self, event: ItemAdded) -> None:
        fields = {"item": item_json(event.item), "previous_item_id": self._previous(event.previous_id)}
        self._put("conversation.item.added", **fields)
        if event.item.role != "assistant" or event.item.status != "in_progress":  # it is whole: see below
            self._put("conversation.item.done", **fields)
        self._last_item = event.item.item_id

    def _item_done(self, event: ItemDone) -> None:
        """Of those that grow alone: a reply may begin before the conversation says this of its question."""
        response = next(
            (each for each in self._responses.values() if each.item_id == event.item.item_id), None
        )
        if response is not None:
            status = "completed" if event.item.status == "completed" else "cancelled"
            response.close(status, event.item)
            fields = {"item": item_json(event.item), "previous_item_id": self._previous(event.previous_id)}
            self._put("conversation.item.done", **fields)

    def _item_removed(self, event: ItemRemoved) -> None:
        if isinstance(self.config, RealtimeConfig):
            self._put("conversation.item.deleted", item_id=event.item_id)

    def _item_truncated(self, event: ItemTruncated) -> None:
        fields = {"item_id": event.item_id, "content_index": 0, "audio_end_ms": ms(event.audio_end_s)}
        self._put("conversation.item.truncated", **fields)

    def _previous(self, item_id: str | None) -> str | None:
        """In a session that only writes down, items leave the conversation once they are heard."""
        return item_id if isinstance(self.config, RealtimeConfig) else self._last_item

    # --- the model's side -------------------------------------------------------------------------

    async def _begun(self, event: ReplyBegun) -> None:
        async with self.beginning:
            wanted = self.wanted.pop(event.reply_id, None)
        if wanted is None:
            assert isinstance(self.config, RealtimeConfig), "others have no replies"
            wanted = Wanted(self.config.audio.output, self.config.max_output_tokens)
        is_spoken = "audio" in event.options.modalities
        response = Response(event.reply_id, event.item_id, wanted, is_spoken=is_spoken, put=self._send)
        self._responses[event.reply_id] = response
        response.begun(self._conversation_id)


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)
