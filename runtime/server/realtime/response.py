"""One response of a session: its object, and its events in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from antiphon.aio.conversation.events import ReplyAudio, ReplyEnded
from antiphon.aio.conversation.items import Item
from antiphon.server.realtime.items import item_json
from antiphon.server.realtime.session_config import OutputAudio
from antiphon.server.realtime.sound import SoundWriter

__all__ = ["Put", "Response", "Wanted", "usage_json"]

Put = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Wanted:
    """What a client has asked for in a response, as far as its object repeats it."""

    output: OutputAudio = field(default_factory=OutputAudio)
    max_output_tokens: int | str = "inf"
    metadata: dict[str, str] | None = None
    in_conversation: bool = True


class Response:
    """Tells a response: `begun` first, `ended` last; what belongs in between is told when it is due."""

    def __init__(self, response_id: str, item_id: str, wanted: Wanted, *, is_spoken: bool, put: Put) -> None:
        """put: sends an event."""
        self.response_id = response_id
        self.item_id = item_id
        self.wanted = wanted
        self.is_spoken = is_spoken
        self._put = put
        self._text = ""
        self._has_part = False
        self._is_closed = False
        self._writer: SoundWriter | None = None

    def begun(self, conversation_id: str) -> None:
        self._conversation_id = conversation_id if self.wanted.in_conversation else None
        self._put({"type": "response.created", "response": self._json("in_progress")})
        self._tell("response.output_item.added", output_index=0, item=self._item("in_progress"))

    def said(self, text: str) -> None:
        """More of its text."""
        self._need_part()
        self._text += text
        kind = "output_audio_transcript" if self.is_spoken else "output_text"
        self._tell_part(f"response.{kind}.delta", delta=text)

    async def sounded(self, event: ReplyAudio) -> None:
        """More of its sound."""
        self._need_part()
        if self._writer is None:
            self._writer = SoundWriter(self.wanted.output.format.sound, event.sample_rate_hz)
        start_ms = self._writer.end_ms
        self._tell_sound(await self._writer.push(event.samples), start_ms)

    def spoken(self, num_chars: int, end_s: float) -> None:
        """How far its text has been spoken."""
        event = {
            "type": "antiphon.output_audio.spoken",
            "num_chars": num_chars,
            "end_ms": round(end_s * 1000),
        }
        self._put({**event, "response_id": self.response_id, "item_id": self.item_id})

    def close(self, status: str, item: Item | None = None) -> None:
        """Its item will not grow any more. item: None: it is not in the conversation."""
        if self._is_closed:
            return
        self._is_closed = True
        self._item_status = "completed" if status == "completed" else "incomplete"
        if self._has_part:
            if self.is_spoken:
                if self._writer is not None and status != "cancelled":
                    start_ms = self._writer.end_ms
                    self._tell_sound(self._writer.finish(), start_ms)
                self._tell_part("response.output_audio.done")
                self._tell_part("response.output_audio_transcript.done", transcript=self._text)
            else:
                self._tell_part("response.output_text.done", text=self._text)
            self._tell_part("response.content_part.done", part=self._part(self._text))
        told = self._item(self._item_status)
        self._tell("response.output_item.done", output_index=0, item=told)

    def ended(self, event: ReplyEnded) -> None:
        self.close(event.status)
        details: dict[str, Any] | None = None
        if event.status != "completed":
            details = {"type": event.status}
            if event.reason is not None:
                details["reason"] = event.reason
            if event.status == "failed":
                details["error"] = {"type": "server_error", "code": "failed", "message": event.error}
        output = [self._item(self._item_status)]
        done = {"status_details": details, "output": output, "usage": usage_json(event)}
        self._put({"type": "response.done", "response": {**self._json(event.status), **done}})
        self._put({"type": "rate_limits.updated", "rate_limits": []})

    def _need_part(self) -> None:
        if not self._has_part:
            self._has_part = True
            self._tell_part("response.content_part.added", part=self._part(""))

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "audio", "transcript": text} if self.is_spoken else {"type": "text", "text": text}

    def _tell_sound(self, sound: str, start_ms: int) -> None:
        if sound:
            self._tell_part("response.output_audio.delta", delta=sound, start_ms=start_ms)

    def _tell_part(self, kind: str, **fields: Any) -> None:
        self._tell(kind, item_id=self.item_id, output_index=0, content_index=0, **fields)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._put({"type": kind, "response_id": self.response_id, **fields})

    def _item(self, status: str) -> dict[str, Any]:
        parts = (self._text,) if self._text else ()
        return item_json(Item("assistant", parts, self.item_id, is_spoken=self.is_spoken), status)

    def _json(self, status: str) -> dict[str, Any]:
        """The object as it is at the beginning."""
        audio: dict[str, Any] = {}
        if self.is_spoken:
            wanted = self.wanted.output.model_dump(include={"format", "voice"})
            audio = {
                "audio": {"output": {name: value for name, value in wanted.items() if value is not None}}
            }
        return {
            "id": self.response_id,
            "object": "realtime.response",
            "status": status,
            "status_details": None,
            "output": [],
            "conversation_id": self._conversation_id,
            "output_modalities": ["audio"] if self.is_spoken else ["text"],
            **audio,
            "max_output_tokens": self.wanted.max_output_tokens,
            "metadata": self.wanted.metadata,
            "usage": None,
        }


def usage_json(event: ReplyEnded) -> dict[str, Any]:
    """What a response took, counted as in chats."""
    metrics = event.metrics
    num_text = metrics.num_prompt_tokens - metrics.num_prompt_units - metrics.num_image_positions
    return {
        "total_tokens": metrics.num_prompt_tokens + event.num_text + event.num_units,
        "input_tokens": metrics.num_prompt_tokens,
        "output_tokens": event.num_text + event.num_units,
        "input_token_details": {
            "text_tokens": num_text,
            "audio_tokens": metrics.num_prompt_units,
            "image_tokens": metrics.num_image_positions,
            "cached_tokens": metrics.num_cached_tokens,
        },
        "output_token_details": {"text_tokens": event.num_text, "audio_tokens": event.num_units},
    }
