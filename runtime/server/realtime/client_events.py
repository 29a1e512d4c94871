"""What clients send, in the form of the Realtime API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from antiphon.server.errors import ApiError, not_valid
from antiphon.server.openai.schemas import NoDict, NoList, Strict, Text
from antiphon.server.realtime.items import AnyItem, Reference

__all__ = [
    "SESSION_FIELDS",
    "ItemCreate",
    "ItemTruncate",
    "ResponseCreate",
    "ResponseParams",
    "read_event",
    "read_item_fields",
]

SESSION_FIELDS = ("output_modalities", "instructions", "audio", "max_output_tokens", "temperature")
"""Those of a response that stand for those of the session."""
ItemId = Annotated[Text, Field(max_length=200)]
Ms = Annotated[int, Field(ge=0, lt=2**31)]


class _Event(Strict):
    type: str
    event_id: Annotated[Text, Field(max_length=512)] | None = None


class SessionUpdate(_Event):
    session: dict[str, Any]


class Append(_Event):
    audio: str


class Plain(_Event):
    """An event without fields."""


class ItemCreate(_Event):
    item: dict[str, Any]
    previous_item_id: ItemId | None = None


class OfItem(_Event):
    item_id: ItemId


class ItemTruncate(_Event):
    item_id: ItemId
    content_index: Literal[0] = 0
    audio_end_ms: Ms


class Played(_Event):
    item_id: ItemId
    audio_end_ms: Ms


class ResponseParams(Strict):
    """How one response is to be."""

    output_modalities: Any = None
    instructions: Any = None
    audio: Any = None
    max_output_tokens: Any = None
    temperature: Any = None
    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None

    # Only what asks for nothing.
    tools: NoList | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    prompt: NoDict | None = None
    reasoning: NoDict | None = None


class ResponseCreate(_Event):
    response: ResponseParams | None = None


class ResponseCancel(_Event):
    response_id: ItemId | None = None


_MODELS: dict[str, type[_Event]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": Append,
    "input_audio_buffer.commit": Plain,
    "input_audio_buffer.clear": Plain,
    "conversation.item.create": ItemCreate,
    "conversation.item.delete": OfItem,
    "conversation.item.retrieve": OfItem,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "antiphon.output_audio.played": Played,
}
_ITEM: TypeAdapter[AnyItem] = TypeAdapter(AnyItem)
_REFERENCE = TypeAdapter(Reference)


def read_event(fields: dict[str, Any]) -> Any:
    """A client's event, checked. ApiError for one that is not known, or not right."""
    kind = fields.get("type")
    if kind == "output_audio_buffer.clear":
        raise _unknown("output_audio_buffer.clear: it is for WebRTC, which this server does not speak")
    if not isinstance(kind, str) or kind not in _MODELS:
        shown = ascii(kind)[:100] if isinstance(kind, str) else "none"
        raise _unknown(f"type: expected one of {', '.join(_MODELS)}, got {shown}")
    return checked(_MODELS[kind], fields)


def checked(model: type[Strict], fields: Any, prefix: str = "") -> Any:
    """Fields as a model. ApiError for what does not fit. prefix: what comes before their names."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise not_valid(error.errors()[0], fields, prefix) from None


def read_item_fields(fields: dict[str, Any], place: str, *, may_refer: bool = False) -> Any:
    """An item as a client gives it. may_refer: whether it may name one of the conversation."""
    kind = fields.get("type", "message")
    adapter: TypeAdapter[Any] = _ITEM
    if kind == "item_reference" and may_refer:
        adapter = _REFERENCE
    elif kind != "message":
        where, shown = f"{place}.type", ascii(kind)[:100]
        message = f"{where}: this server supports no items of the type {shown}, but 'message'"
        raise ApiError(400, message, param=where, code="unsupported_value")
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"][1:] if first["loc"][:1] == (fields.get("role"),) else first["loc"]
        raise not_valid({**first, "loc": loc}, fields, f"{place}.") from None


def _unknown(message: str) -> ApiError:
    return ApiError(400, message, param="type", code="unknown_event")
