"""A client's messages as the engine's."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence

from antiphon.inputs.base64_text import decode_base64
from antiphon.server.errors import ApiError
from antiphon.server.openai.chat_request import (
    AssistantMessage,
    AudioPart,
    ChatMessage,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from antiphon.server.openai.conversation import Conversation, read_image, wrong
from antiphon.server.service import Service
from antiphon.types import Part, Speech

__all__ = ["read_messages"]


async def read_messages(service: Service, messages: Sequence[ChatMessage]) -> Conversation:
    """The messages, their base64 decoded and their pictures fetched. ApiError, naming its place, for whatever
    is wrong."""
    found = Conversation()
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if isinstance(message, SystemMessage):
            found.add_system(place, message.role, _text(message.content))
        elif isinstance(message, UserMessage):
            found.add(place, "user", await _user(service, message, place))
        else:
            found.add(place, "assistant", _assistant(service, message, place))
    return found


async def _user(service: Service, message: UserMessage, place: str) -> str | list[Part]:
    if isinstance(message.content, str):
        return message.content
    parts: list[Part] = []
    for index, part in enumerate(message.content):
        where = f"{place}.content[{index}]"
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif isinstance(part, ImagePart):
            parts.append(await read_image(service, part.image_url.url, f"{where}.image_url.url"))
        elif isinstance(part, AudioPart):
            parts.append(await _speech(part.input_audio.data, f"{where}.input_audio.data"))
    return parts


async def _speech(data: str, place: str) -> Speech:
    try:
        sound = await asyncio.to_thread(decode_base64, data)
    except (binascii.Error, ValueError) as error:
        raise wrong(place, "expected a sound file in base64, got something else") from error
    if not sound:
        raise wrong(place, "expected a sound file in base64, got nothing")
    return Speech(sound)


def _assistant(service: Service, message: AssistantMessage, place: str) -> str:
    if message.audio is None:
        if message.content is None:
            raise wrong(
                f"{place}.content", "expected text, or the id of a spoken reply as audio, got neither"
            )
        return _text(message.content)
    if message.content:
        raise wrong(f"{place}.content", "expected text or the id of a spoken reply as audio, got both")
    said = service.kept_audio.transcript(message.audio.id)
    if said is None:
        where = f"{place}.audio.id"
        raise ApiError(
            404,
            f"{where}: no spoken reply of the last {service.settings.audio_expiry_s:g} s has the id "
            f"{message.audio.id[:100]!a}",
            param=where,
            code="audio_not_found",
        )
    return said


def _text(content: str | list[TextPart] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content or [])
