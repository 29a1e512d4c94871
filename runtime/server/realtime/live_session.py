"""A session of the Live API: two tracks of sound on one clock, that of the sound which comes in."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from antiphon.aio.conversation.events import (
    ConversationEvent,
    Heard,
    HeardUpdate,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplySpoken,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
)
from antiphon.server.errors import ApiError
from antiphon.server.realtime.client_events import read_item_fields
from antiphon.server.realtime.heard import GrowingTranscript
from antiphon.server.realtime.items import read_item
from antiphon.server.realtime.live_config import LiveConfig, history_of, live_settings, read_live_event
from antiphon.server.realtime.sound import SoundReader, SoundWriter, read_base64
from antiphon.server.realtime.talk import GOING_AWAY, Talk
from antiphon.server.realtime.telling import ms
from antiphon.server.service import Service

__all__ = ["LiveSession"]


class _Said:
    """What is being said: where it begins on the session's clock, and how far it was told."""

    def __init__(self, begin_ms: int) -> None:
        self.begin_ms = begin_ms
        self.end_ms = begin_ms
        self.text = ""
        self.num_told = 0
        self.writer: SoundWriter | None = None


class LiveSession(Talk):
    """Does what its client's events ask for, and tells what happens. It ends with its connection."""

    can_return = False

    def __init__(self, service: Service, config: LiveConfig, event_id: str | None = None) -> None:
        """event_id: of the event that starts it. Raises ApiError for what this server cannot do."""
        super().__init__(service, live_settings(service, config), is_numbered=False)
        self._config = config
        self._start_id = event_id
        self._reader = SoundReader(config.audio.format.sound)
        self._is_muted = False
        self._begun_s = time.monotonic()
        self._said: dict[str, _Said] = {}
        self._spoken_ms = 0
        """Where the last reply ends."""
        self._growing = GrowingTranscript()
        self._stopped_ms = 0
        self._heard_ms = 0
        """Where what was told of the user's words ends."""
        self._doing: dict[str, Callable[[Any], Awaitable[None]]] = {
            "session.update": self._update,
            "session.input_audio.append": self._append,
            "session.input_audio.mute": self._mute,
            "session.input_audio.unmute": self._mute,
            "session.instructions.append": self._instruct,
            "response.create": self._respond,
            "response.item.create": self._create_item,
            "session.close": self._close,
        }

    async def start(self) -> None:
        await super().start()
        for item in history_of(self._config):
            await self.conversation.add_item(item)

    def greet(self) -> None:
        self._put("session.started", self._start_id, session=self._session())

    async def obey(self, fields: dict[str, Any]) -> None:
        event = read_live_event(fields)
        if event.type == "session.start":
            raise ApiError(400, "session.start: the session has begun", param="type", code="invalid_value")
        await self._doing[event.type](event)

    async def tell(self, event: ConversationEvent) -> None:
        if isinstance(event, SpeechStarted):
            self._growing, self._heard_ms = GrowingTranscript(), ms(event.at_s)
        elif isinstance(event, HeardUpdate):
            self._tell_heard(self._growing.update(event.text.strip()), ms(self.pushed_s))
        elif isinstance(event, SpeechStopped):
            self._stopped_ms = ms(event.at_s)
        elif isinstance(event, Heard):
            self._tell_heard(self._growing.finish(event.text), self._stopped_ms)
        elif isinstance(event, NotHeard):
            self.tell_error(ApiError(500, event.error, kind="server_error", code="not_heard"), None)
        elif isinstance(event, ReplyBegun):
            self._said[event.reply_id] = _Said(max(self._spoken_ms, ms(self.pushed_s)))
        elif isinstance(event, ReplyText):
            self._said[event.reply_id].text += event.text
        elif isinstance(event, ReplySpoken):
            self._tell_said(self._said[event.reply_id], event.num_chars, ms(event.end_s))
        elif isinstance(event, ReplyAudio):
            await self._sound(self._said[event.reply_id], event)
        elif isinstance(event, ReplyEnded):
            self._ended(event)

    def tell_error(self, error: ApiError, event_id: str | None) -> None:
        fields = {**error.body()["error"], "client_event_id": event_id}
        fields["code"] = fields["code"] or "invalid_value"
        self._put("error", event_id, error=fields)

    def bid_farewell(self) -> None:
        reason = "close_requested"
        if self.close_code == GOING_AWAY:
            reason = "remote_hangup"
        elif time.time() >= self.expires_s:
            reason = "expired"
        self._put("session.closed", reason=reason, usage=self._usage(), session=self._session())

    # --- what the client asks for -----------------------------------------------------------------

    async def _update(self, event: Any) -> None:
        self._put("session.updated", event.event_id, session=self._session())

    async def _append(self, event: Any) -> None:
        samples = self._reader.push(await read_base64(event.audio, "audio"))
        if self._is_muted or not len(samples):
            return
        rate_hz = self._reader.form.rate_hz
        await self.conversation.push_audio(samples, rate_hz)
        self.pushed_s += len(samples) / rate_hz

    async def _mute(self, event: Any) -> None:
        self._is_muted = event.type == "session.input_audio.mute"
        self._put(f"{event.type}d", event.event_id)

    async def _instruct(self, event: Any) -> None:
        settings = self.conversation.settings
        system = "\n\n".join(text for text in (settings.reply.system, event.content) if text)
        await self.conversation.update(replace(settings, reply=replace(settings.reply, system=system)))
        now_ms = ms(self.pushed_s)
        self._put("session.instructions.appended", event.event_id, start_ms=now_ms, end_ms=now_ms)

    async def _respond(self, _: Any) -> None:
        self.service.check_open()
        await self.conversation.respond()

    async def _create_item(self, event: Any) -> None:
        fields = event.item
        if isinstance(fields.get("content"), str):
            kind = "output_text" if fields.get("role") == "assistant" else "input_text"
            fields = {**fields, "content": [{"type": kind, "text": fields["content"]}]}
        given = read_item_fields(fields, "item")
        sound = self._config.audio.format.sound
        await self.conversation.add_item(await read_item(self.service, given, sound, "item"))

    async def _close(self, _: Any) -> None:
        await self.end()

    # --- what the client is told ------------------------------------------------------------------

    def _put(self, kind: str, client_event_id: str | None = None, **fields: Any) -> None:
        named = {} if client_event_id is None else {"client_event_id": client_event_id}
        self.outbox.put({"type": kind, **named, **fields})

    def _tell_heard(self, text: str, end_ms: int) -> None:
        if text:
            begin_ms, self._heard_ms = self._heard_ms, max(self._heard_ms, end_ms)
            self._put("session.input_transcript.delta", delta=text, start_ms=begin_ms, end_ms=self._heard_ms)

    def _tell_said(self, said: _Said, num_chars: int, end_ms: int) -> None:
        """end_ms: on the clock of the reply's own sound."""
        text = said.text[said.num_told : num_chars]
        if text:
            said.num_told += len(text)
            begin_ms, said.end_ms = said.end_ms, max(said.end_ms, said.begin_ms + end_ms)
            self._put("session.output_transcript.delta", delta=text, start_ms=begin_ms, end_ms=said.end_ms)

    async def _sound(self, said: _Said, event: ReplyAudio) -> None:
        if said.writer is None:
            said.writer = SoundWriter(self._config.audio.format.sound, event.sample_rate_hz)
        start_ms = said.writer.end_ms
        self._tell_sound(said, await said.writer.push(event.samples), start_ms)

    def _tell_sound(self, said: _Said, sound: str, start_ms: int) -> None:
        assert said.writer is not None
        if sound:
            end_ms = said.writer.end_ms
            begin_ms, self._spoken_ms = said.begin_ms + start_ms, said.begin_ms + end_ms
            self._put("session.output_audio.delta", delta=sound, start_ms=begin_ms, end_ms=self._spoken_ms)

    def _ended(self, event: ReplyEnded) -> None:
        said = self._said.pop(event.reply_id)
        if event.status == "cancelled":
            self.outbox.drop_sound(event.reply_id)
            self._spoken_ms = ms(self.pushed_s)
        else:
            if said.writer is not None:
                start_ms = said.writer.end_ms
                self._tell_sound(said, said.writer.finish(), start_ms)
            last_ms = said.writer.end_ms if said.writer is not None else 0
            self._tell_said(said, len(said.text), last_ms)
            # Its last unit may end some ms after its sound, and the next reply does not begin before.
            self._spoken_ms = max(self._spoken_ms, said.end_ms)
        if event.status == "failed":
            message = event.error or "the reply failed"
            self.tell_error(ApiError(500, message, kind="server_error", code="failed"), None)
        used = event.metrics.num_prompt_tokens + event.num_text + event.num_units
        share = min(1.0, used / self.service.engine.engine.config.max_model_len)
        self._put("session.usage.updated", usage=self._usage(), context_window={"usage_ratio": share})

    def _usage(self) -> dict[str, Any]:
        return {"seconds": round(time.monotonic() - self._begun_s, 3)}

    def _session(self) -> dict[str, Any]:
        told = self._config.model_dump(exclude_none=True, exclude={"input"})
        model = self.service.model_name
        named = {"id": self.session_id, "expires_at": self.expires_s, "model": model, "status": "active"}
        return {**told, **named}
