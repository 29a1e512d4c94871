"""The two dialects of the Realtime API: what became general, which the server thinks in, and the beta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.server.errors import ApiError

__all__ = ["Beta", "Dialect", "beta_error", "beta_session", "general_session"]


class Dialect:
    """The general one: events are what they are."""

    def read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A client's event in the general dialect. ApiError for what the client's does not have."""
        return fields

    def written(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """An event for the client, or None: its dialect does not have it."""
        return event


FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
FORMAT_NAMES = {form["type"]: name for name, form in FORMATS.items()}
INPUT_FIELDS = {
    "input_audio_noise_reduction": "noise_reduction",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
}
PLAIN_FIELDS = (
    "model",
    "instructions",
    "temperature",
    "truncation",
    "tools",
    "tool_choice",
    "tracing",
    "include",
)
KEPT_FIELDS = ("conversation", "metadata", "input")
"""Of a response, those that are the same in both."""
PLACES = {
    "audio.input.format": "input_audio_format",
    "audio.output.format": "output_audio_format",
    "audio.output.voice": "voice",
    "audio.output.speed": "speed",
    "output_modalities": "modalities",
    "max_output_tokens": "max_response_output_tokens",
    **{f"audio.input.{new}": old for old, new in INPUT_FIELDS.items()},
}
"""Where the beta has what errors name."""
EVENTS = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
CONTENT_TYPES = {"output_text": "text", "output_audio": "audio"}


class Beta(Dialect):
    """The beta: flat sessions, and other names for what replies say."""

    def __init__(self, *, is_transcription: bool = False) -> None:
        self._is_transcription = is_transcription

    def read(self, fields: dict[str, Any]) -> dict[str, Any]:
        kind = fields.get("type")
        if kind == "transcription_session.update":
            if not self._is_transcription:
                message = "transcription_session.update: not in a session of type 'realtime'"
                raise ApiError(400, message, param="type", code="unsupported_value")
            fields = {**fields, "type": "session.update"}
            kind = "session.update"
        if kind == "session.update" and isinstance(fields.get("session"), dict):
            return {**fields, "session": general_session(fields["session"], "session")}
        if kind == "response.create" and isinstance(fields.get("response"), dict):
            response = dict(fields["response"])
            kept = {
                name: response.pop(name) for name in ("conversation", "metadata", "input") if name in response
            }
            if isinstance(kept.get("input"), list):
                kept["input"] = [_general_item(item) for item in kept["input"]]
            return {**fields, "response": {**general_session(response, "response"), **kept}}
        if kind == "conversation.item.create":
            return {**fields, "item": _general_item(fields.get("item"))}
        return fields

    def written(self, event: dict[str, Any]) -> dict[str, Any] | None:
        kind: str = event["type"]
        if kind == "conversation.item.done":
            return None
        event = {**event, "type": EVENTS.get(kind, kind)}
        if kind in ("session.created", "session.updated"):
            event["session"] = beta_session(event["session"])
            if self._is_transcription:
                event["type"] = f"transcription_{kind}"
        elif kind in ("response.created", "response.done"):
            event["response"] = _beta_response(event["response"])
        elif kind == "error":
            event["error"] = beta_error(event["error"])
        if isinstance(event.get("item"), dict):
            event["item"] = _beta_item(event["item"])
        return event


# --- what clients send ------------------------------------------------------------------------------


def general_session(flat: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A session of the beta in the general dialect. ApiError for a field that the beta does not have. place:
    what its fields' names stand below."""
    found: dict[str, Any] = {}
    heard: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for name, value in flat.items():
        if name in INPUT_FIELDS:
            heard[INPUT_FIELDS[name]] = value
        elif name in ("input_audio_format", "output_audio_format"):
            if not isinstance(value, str) or value not in FORMATS:
                where = f"{place}.{name}"
                message = f"{where}: expected one of {', '.join(FORMATS)}"
                raise ApiError(400, message, param=where, code="invalid_value")
            (heard if name.startswith("input") else said)["format"] = FORMATS[value]
        elif name in ("voice", "speed"):
            said[name] = value
        elif name == "modalities":
            found["output_modalities"] = value
        elif name in ("max_response_output_tokens", "max_output_tokens"):
            found["max_output_tokens"] = value
        elif name in PLAIN_FIELDS or name in ("type", "antiphon_events"):
            found[name] = value
        else:
            where = f"{place}.{name}"
            message = f"{where}: this server does not support it"
            raise ApiError(400, message, param=where, code="unsupported_parameter")
    audio = {name: part for name, part in (("input", heard), ("output", said)) if part}
    return {**found, "audio": audio} if audio else found


def _general_item(item: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("content"), list):
        return item
    names = {
        "text": "output_text" if item.get("role") == "assistant" else "input_text",
        "audio": "output_audio",
    }
    content = [
        {**part, "type": names[part["type"]]}
        if isinstance(part, dict) and part.get("type") in names
        else part
        for part in item["content"]
    ]
    return {**item, "content": content}


# --- what clients get -------------------------------------------------------------------------------


def beta_session(session: dict[str, Any]) -> dict[str, Any]:
    """A session of the general dialect as the beta has it."""
    told = {name: value for name, value in session.items() if name not in ("audio", "type", *PLACES)}
    heard = session["audio"]["input"]
    told["input_audio_format"] = FORMAT_NAMES[heard["format"]["type"]]
    told |= {old: heard[new] for old, new in INPUT_FIELDS.items()}
    if "output" in session["audio"]:
        said = session["audio"]["output"]
        told["output_audio_format"] = FORMAT_NAMES[said["format"]["type"]]
        told["voice"] = _voice(said)
        told["speed"] = said["speed"]
        told["modalities"] = _modalities(session["output_modalities"])
        told["max_response_output_tokens"] = session["max_output_tokens"]
        told.setdefault("temperature", 0.0)
    return told


def _beta_response(response: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in response.items() if name not in ("audio", "output_modalities")}
    told["modalities"] = _modalities(response["output_modalities"])
    if "audio" in response:
        said = response["audio"]["output"]
        told["output_audio_format"] = FORMAT_NAMES[said["format"]["type"]]
        told["voice"] = _voice(said)
    told["output"] = [_beta_item(item) for item in response["output"]]
    return told


def _beta_item(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("role") == "assistant":
        content = [{**part, "type": CONTENT_TYPES[part["type"]]} for part in item["content"]]
        return {**item, "content": content}
    return item


def beta_error(error: dict[str, Any]) -> dict[str, Any]:
    """An error that names a field of the general dialect, with the beta's name."""
    param = error.get("param")
    if isinstance(param, str):
        top, _, rest = param.partition(".")
        for new, old in PLACES.items():
            if top in ("session", "response") and (rest == new or rest.startswith((f"{new}.", f"{new}["))):
                named = f"{top}.{old}{rest.removeprefix(new)}"
                return {**error, "param": named, "message": error["message"].replace(param, named)}
    return error


def _modalities(general: list[str]) -> list[str]:
    return ["text", "audio"] if "audio" in general else ["text"]


def _voice(said: Mapping[str, Any]) -> str:
    voice = said.get("voice") or "alloy"
    return voice["id"] if isinstance(voice, dict) else voice
