"""A session of the Realtime API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from antiphon.aio.conversation.events import ConversationEvent, Heard, NotHeard
from antiphon.aio.conversation.items import Item, new_id
from antiphon.errors import InvalidRequest
from antiphon.server.errors import ApiError, api_error
from antiphon.server.realtime import client_events
from antiphon.server.realtime.client_events import SESSION_FIELDS, read_event, read_item_fields
from antiphon.server.realtime.dialects import Dialect
from antiphon.server.realtime.items import Reference, item_json, read_item
from antiphon.server.realtime.response import Wanted
from antiphon.server.realtime.session_config import (
    RealtimeConfig,
    SessionConfig,
    conversation_settings,
    merged,
    reply_options,
    session_json,
    session_object,
)
from antiphon.server.realtime.sound import SoundReader, read_base64
from antiphon.server.realtime.talk import Talk
from antiphon.server.realtime.telling import Telling
from antiphon.server.service import Service

__all__ = ["RealtimeSession"]

MAX_ITEMS = 2000
"""Items of one conversation."""
CODES = {
    ("conversation.item.create", "item.id"): "item_create_duplicate_item_id",
    ("conversation.item.delete", "item_id"): "item_delete_invalid_item_id",
    ("conversation.item.retrieve", "item_id"): "item_retrieve_invalid_item_id",
    ("conversation.item.truncate", "item_id"): "item_truncate_invalid_item_id",
    ("input_audio_buffer.commit", "input_audio_buffer"): "input_audio_buffer_commit_empty",
    ("response.cancel", "response_id"): "response_cancel_not_active",
    ("response.create", "response"): "conversation_already_has_active_response",
}
"""OpenAI's, by the event and what is wrong about it: some clients give up on errors of other codes."""


class RealtimeSession(Talk):
    """Does what its client's events ask for, and tells what happens."""

    def __init__(self, service: Service, config: SessionConfig, dialect: Dialect) -> None:
        """dialect: what the client's events are written in. Raises ApiError or InvalidRequest for a
        configuration that this server cannot do."""
        super().__init__(service, conversation_settings(service, config))
        self.config = config
        self._dialect = dialect
        self._conversation_id = new_id("conv")
        self._telling = Telling(config, self._conversation_id, self.put)
        self._reader: SoundReader | None = None
        self._doing: dict[str, Callable[[Any], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.truncate": self._truncate_item,
            "response.create": self._respond,
            "response.cancel": self._cancel,
            "antiphon.output_audio.played": self._played,
        }

    def put(self, event: dict[str, Any]) -> None:
        """Send an event in the client's dialect."""
        told = self._dialect.written(event)
        if told is not None:
            self.outbox.put(told)

    def greet(self) -> None:
        self.put({"type": "session.created", "session": self._session()})

    def bid_farewell(self) -> None:
        """The end of the last response is the last there is."""

    async def obey(self, fields: dict[str, Any]) -> None:
        event = read_event(self._dialect.read(fields))
        if not isinstance(self.config, RealtimeConfig) and event.type not in (
            "session.update",
            "input_audio_buffer.append",
            "input_audio_buffer.commit",
            "input_audio_buffer.clear",
        ):
            message = f"{event.type}: not in a session of type 'transcription'"
            raise ApiError(400, message, param="type", code="unsupported_value")
        try:
            await self._doing[event.type](event)
        except InvalidRequest as error:
            raise _coded(event.type, api_error(error)) from error

    async def tell(self, event: ConversationEvent) -> None:
        await self._telling.tell(event)
        if self._telling.dropped is not None:
            self.outbox.drop_sound(self._telling.dropped)
            self._telling.dropped = None
        if isinstance(event, Heard | NotHeard) and not isinstance(self.config, RealtimeConfig):
            with suppress(InvalidRequest):  # each turn is heard by itself
                await self.conversation.remove_item(event.item_id)

    def tell_error(self, error: ApiError, event_id: str | None) -> None:
        self.put({"type": "error", "error": {**error.body()["error"], "event_id": event_id}})

    # --- the session ------------------------------------------------------------------------------

    def _session(self) -> dict[str, Any]:
        told = session_json(self.service, self.config)
        return {
            **told,
            "id": self.session_id,
            "object": session_object(self.config),
            "expires_at": self.expires_s,
            "resume_token": self.token,
        }

    async def _update(self, event: client_events.SessionUpdate) -> None:
        config = merged(self.config, event.session)
        reader = self._reader
        if reader is not None and config.audio.input.format.sound.rate_hz != reader.form.rate_hz:
            place = "session.audio.input.format"
            message = f"{place}: its rate can only be changed before the first sound is sent"
            raise ApiError(400, message, param=place, code="invalid_value")
        settings = conversation_settings(self.service, config)
        async with self._telling.beginning:  # a response that begins meanwhile is told as it was before
            if settings != self.conversation.settings:
                await self.conversation.update(settings)
            self.config = self._telling.config = config
        if reader is not None and config.audio.input.format.sound != reader.form:
            self._reader = SoundReader(config.audio.input.format.sound)
        self.put({"type": "session.updated", "session": self._session()})

    # --- sound ------------------------------------------------------------------------------------

    async def _append(self, event: client_events.Append) -> None:
        data = await read_base64(event.audio, "audio")
        if self._reader is None:
            self._reader = SoundReader(self.config.audio.input.format.sound)
        samples = self._reader.push(data)
        if len(samples):
            rate_hz = self._reader.form.rate_hz
            await self.conversation.push_audio(samples, rate_hz)
            self.pushed_s += len(samples) / rate_hz

    async def _commit(self, _: client_events.Plain) -> None:
        await self.conversation.commit()

    async def _clear(self, _: client_events.Plain) -> None:
        await self.conversation.clear()

    async def _played(self, event: client_events.Played) -> None:
        await self.conversation.played(event.item_id, event.audio_end_ms / 1000)

    # --- items ------------------------------------------------------------------------------------

    async def _create_item(self, event: client_events.ItemCreate) -> None:
        if len(self.conversation.history) >= MAX_ITEMS:
            raise ApiError(
                400, f"item: a conversation holds at most {MAX_ITEMS} items", param="item", code="too_many"
            )
        item = await self._read_item(event.item, "item")
        await self.conversation.add_item(item, event.previous_item_id)

    async def _delete_item(self, event: client_events.OfItem) -> None:
        await self.conversation.remove_item(event.item_id)

    async def _retrieve_item(self, event: client_events.OfItem) -> None:
        item = await self.conversation.find_item(event.item_id)
        self.put({"type": "conversation.item.retrieved", "item": item_json(item)})

    async def _truncate_item(self, event: client_events.ItemTruncate) -> None:
        await self.conversation.truncate(event.item_id, event.audio_end_ms / 1000)

    async def _read_item(self, fields: dict[str, Any], place: str) -> Item:
        given = read_item_fields(fields, place)
        return await read_item(self.service, given, self.config.audio.input.format.sound, place)

    # --- responses --------------------------------------------------------------------------------

    async def _respond(self, event: client_events.ResponseCreate) -> None:
        assert isinstance(self.config, RealtimeConfig), "others are refused before"
        params = event.response or client_events.ResponseParams()
        given = {name: getattr(params, name) for name in SESSION_FIELDS if name in params.model_fields_set}
        config = merged(self.config, given, "response") if given else self.config
        assert isinstance(config, RealtimeConfig), "its type is not changed"
        options = reply_options(self.service, config, "response")
        items = None
        if params.input is not None:
            items = [await self._input(each, index) for index, each in enumerate(params.input)]
        keep = params.conversation != "none"
        wanted = Wanted(config.audio.output, config.max_output_tokens, params.metadata, in_conversation=keep)
        self.service.check_open()
        async with self._telling.beginning:
            reply_id = await self.conversation.respond(options, items=items, keep=keep)
            self._telling.wanted[reply_id] = wanted

    async def _input(self, fields: dict[str, Any], index: int) -> Item:
        place = f"response.input[{index}]"
        given = read_item_fields(fields, place, may_refer=True)
        if isinstance(given, Reference):
            return await self.conversation.find_item(given.id)
        return await read_item(self.service, given, self.config.audio.input.format.sound, place)

    async def _cancel(self, event: client_events.ResponseCancel) -> None:
        await self.conversation.cancel(event.response_id)


def _coded(kind: str, error: ApiError) -> ApiError:
    """An error with the code and the message that OpenAI's clients know it by. kind: of the event."""
    code = CODES.get((kind, error.param or ""), error.code)
    message = error.message
    if code == "response_cancel_not_active":
        message = f"Cancellation failed: {message}"
    return ApiError(error.status, message, kind=error.kind, param=error.param, code=code)
