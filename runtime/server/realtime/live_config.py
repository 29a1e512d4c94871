"""What clients of the Live API send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from antiphon.aio.conversation.items import Item, new_id
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.server.errors import ApiError
from antiphon.server.openai.schemas import NoDict, NoList, Strict, Text
from antiphon.server.openai.voices import VoiceId, speaking_voice
from antiphon.server.realtime.client_events import checked
from antiphon.server.realtime.session_config import MAX_CHARS, Format, Pcm
from antiphon.server.service import Service

__all__ = ["LiveConfig", "history_of", "live_settings", "read_live_event"]

EventId = Annotated[Text, Field(max_length=512)]


class _Text(Strict):
    type: Literal["input_text", "output_text", "text"] | None = None
    text: Text


class _InitialItem(Strict):
    """A message from before the session."""

    type: Literal["message"] | None = None
    id: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    status: Literal["completed", "incomplete"] | None = None
    role: Literal["developer", "user", "assistant"]
    content: Annotated[list[_Text], Field(min_length=1, max_length=100)]


class _Output(Strict):
    voice: str | VoiceId | None = None


class _Audio(Strict):
    format: Format = Pcm(type="audio/pcm")
    output: _Output = _Output()


class LiveConfig(Strict):
    """The session of a `session.start`."""

    model: str | None = Field(default=None, max_length=1000)
    instructions: Annotated[Text, Field(max_length=MAX_CHARS)] | None = None
    audio: _Audio = _Audio()
    input: Annotated[list[_InitialItem], Field(max_length=1000)] | None = None

    # Without effect on replies.
    store: bool | None = None
    safety_identifier: str | None = None

    # Only what asks for nothing.
    delegation: NoDict | None = None
    triggers: NoList | None = None
    client: NoDict | None = None


class _Changes(Strict):
    delegation: NoDict | None = None
    triggers: NoList | None = None


class _Event(Strict):
    type: str
    event_id: EventId | None = None
    client_event_id: EventId | None = None


class _Start(_Event):
    session: LiveConfig


class _Update(_Event):
    session: _Changes


class _Append(_Event):
    audio: str


class _Instructions(_Event):
    content: Annotated[Text, Field(max_length=MAX_CHARS)]
    delegation_id: None = None


class _ItemCreate(_Event):
    item: dict[str, Any]


_MODELS: dict[str, type[_Event]] = {
    "session.start": _Start,
    "session.update": _Update,
    "session.input_audio.append": _Append,
    "session.input_audio.mute": _Event,
    "session.input_audio.unmute": _Event,
    "session.instructions.append": _Instructions,
    "response.create": _Event,
    "response.item.create": _ItemCreate,
    "session.close": _Event,
}


def read_live_event(fields: dict[str, Any]) -> Any:
    """A client's event, checked. ApiError for one that is not known or not right."""
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _MODELS:
        shown = ascii(kind)[:100] if isinstance(kind, str) else "none"
        message = f"type: expected one of {', '.join(_MODELS)}, got {shown}"
        raise ApiError(400, message, param="type", code="unknown_event")
    return checked(_MODELS[kind], fields)


def live_settings(service: Service, config: LiveConfig) -> ConversationSettings:
    """The conversation's settings for a session. ApiError for what this server cannot."""
    service.check_model(config.model)
    voice = speaking_voice(service, config.audio.output.voice, "session.audio.output.voice")
    return ConversationSettings(
        reply=ReplyOptions(system=config.instructions, voice=voice),
        reply_timeout_s=service.settings.request_timeout_s,
    )


def history_of(config: LiveConfig) -> list[Item]:
    """The messages from before the session."""
    found = []
    for given in config.input or []:
        role: Literal["system", "user", "assistant"]
        role = "system" if given.role == "developer" else given.role
        found.append(Item(role, tuple(part.text for part in given.content), given.id or new_id("item")))
    return found
