"""A client's messages as the engine's."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from antiphon.errors import InvalidRequest
from antiphon.server.errors import ApiError
from antiphon.server.media import fetch
from antiphon.server.openai.chat_request import (
    AssistantMessage,
    AudioPart,
    ChatMessage,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from antiphon.server.service import Service
from antiphon.types import Image, Message, Part, Speech

__all__ = ["num_leading_systems", "read_image", "read_messages", "renumbered"]

PLACE = re.compile(r"^messages\[(\d+)\]")


async def read_messages(service: Service, messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages, their base64 decoded and their pictures fetched. The system messages become one.
    ApiError, naming its place, for whatever is wrong."""
    num_systems = num_leading_systems(messages)
    for index, message in enumerate(messages[num_systems:], num_systems):
        if isinstance(message, SystemMessage):
            place = f"messages[{index}].role"
            raise _wrong(place, f"a {message.role} message can only come before all others")
    found: list[Message] = []
    if num_systems:
        systems = [_text(message.content) for message in messages if isinstance(message, SystemMessage)]
        found.append(Message("system", "\n\n".join(systems)))
    for index, message in enumerate(messages[num_systems:], num_systems):
        if isinstance(message, UserMessage):
            found.append(Message("user", await _user(service, message, f"messages[{index}]")))
        elif isinstance(message, AssistantMessage):
            found.append(Message("assistant", _assistant(service, message, f"messages[{index}]")))
    return found


def num_leading_systems(messages: Sequence[ChatMessage]) -> int:
    """How many system messages there are at the beginning."""
    others = (i for i, message in enumerate(messages) if not isinstance(message, SystemMessage))
    return next(others, len(messages))


@contextmanager
def renumbered(num_systems: int) -> Iterator[None]:
    """Have errors of the engine name messages as the client counts them: system messages became one."""
    try:
        yield
    except InvalidRequest as error:
        moved = PLACE.sub(lambda match: f"messages[{int(match[1]) + max(0, num_systems - 1)}]", str(error))
        raise InvalidRequest(moved) from error


async def read_image(service: Service, url: str, place: str) -> Image:
    """A picture by its URL. Anything but a data: URL is fetched, or refused: paths are not read."""
    if url[:5].lower() == "data:":
        return Image(url)
    max_bytes = service.engine.engine.config.limits.max_image_bytes
    return Image(await fetch(url, service.settings.allowed_media_domains, max_bytes, place))


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
        sound = await asyncio.to_thread(base64.b64decode, data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(place, "expected a sound file in base64, got something else") from error
    if not sound:
        raise _wrong(place, "expected a sound file in base64, got nothing")
    return Speech(sound)


def _assistant(service: Service, message: AssistantMessage, place: str) -> str:
    if message.audio is None:
        if message.content is None:
            raise _wrong(
                f"{place}.content", "expected text, or the id of a spoken reply as audio, got neither"
            )
        return _text(message.content)
    if message.content:
        raise _wrong(f"{place}.content", "expected text or the id of a spoken reply as audio, got both")
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


def _wrong(place: str, message: str) -> ApiError:
    return ApiError(400, f"{place}: {message}", param=place, code="invalid_value")
