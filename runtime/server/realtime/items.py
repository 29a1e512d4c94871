"""A client's items as the conversation's, and back."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field

from antiphon.aio.conversation.items import Item, new_id
from antiphon.errors import InvalidRequest
from antiphon.inputs.images import open_image
from antiphon.server.openai.conversation import read_image, wrong
from antiphon.server.openai.schemas import Strict, Text
from antiphon.server.realtime.sound import SoundFormat, SoundReader, read_base64
from antiphon.server.service import Service
from antiphon.types import Image, Units

__all__ = ["AnyItem", "Reference", "item_json", "read_item"]

ItemId = Annotated[Text, Field(min_length=1, max_length=200)]
Status = Literal["completed", "incomplete", "in_progress"]


class InputText(Strict):
    type: Literal["input_text"]
    text: Text


class InputAudio(Strict):
    type: Literal["input_audio"]
    audio: str
    """Base64 in the format of the session's input."""
    transcript: Text | None = None


class InputImage(Strict):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    """Without effect: pictures are always seen as they are."""


class OutputText(Strict):
    type: Literal["output_text"]
    text: Text


class OutputAudio(Strict):
    type: Literal["output_audio"]
    transcript: Text
    """What counts of it."""
    audio: None = None


class _Message(Strict):
    type: Literal["message"] = "message"
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class SystemItem(_Message):
    role: Literal["system"]
    content: Annotated[list[InputText], Field(min_length=1, max_length=100)]


class UserItem(_Message):
    role: Literal["user"]
    content: Annotated[
        list[Annotated[InputText | InputAudio | InputImage, Field(discriminator="type")]],
        Field(min_length=1, max_length=100),
    ]


class AssistantItem(_Message):
    role: Literal["assistant"]
    content: Annotated[
        list[Annotated[OutputText | OutputAudio, Field(discriminator="type")]],
        Field(min_length=1, max_length=100),
    ]


class Reference(Strict):
    """An item of the conversation, in the input of a response."""

    type: Literal["item_reference"]
    id: ItemId


AnyItem = Annotated[SystemItem | UserItem | AssistantItem, Field(discriminator="role")]


async def read_item(service: Service, item: AnyItem, sound: SoundFormat, place: str) -> Item:
    """An item for the conversation: its pictures fetched and tried, its sound tokenized. ApiError, naming its
    place, for whatever is wrong."""
    parts: list[str | Image | Units] = []
    transcripts = []
    for index, part in enumerate(item.content):
        where = f"{place}.content[{index}]"
        if isinstance(part, InputText | OutputText):
            parts.append(part.text)
        elif isinstance(part, OutputAudio):
            parts.append(part.transcript)
        elif isinstance(part, InputImage):
            image = await read_image(service, part.image_url, f"{where}.image_url")
            await _try_image(service, image, f"{where}.image_url")
            parts.append(image)
        else:
            parts.append(await _units(service, part.audio, sound, f"{where}.audio"))
            transcripts.append(part.transcript or "")
    given = " ".join(text for text in transcripts if text)
    return Item(item.role, tuple(parts), item.id or new_id("item"), transcript=given or None)


async def _try_image(service: Service, image: Image, place: str) -> None:
    """A picture that cannot be read would fail every reply that follows."""
    try:
        await asyncio.to_thread(open_image, image.source, service.engine.engine.config.limits)
    except InvalidRequest as error:
        raise wrong(place, str(error)) from error


async def _units(service: Service, data: str, sound: SoundFormat, place: str) -> Units:
    engine = service.engine.engine
    if (codec := engine.codec) is None:
        raise wrong(place, "this server has no codec, so it does not hear")
    samples = SoundReader(sound).push(await read_base64(data, place))
    most_s = engine.config.limits.max_audio_s
    if len(samples) > most_s * sound.rate_hz:
        raise wrong(place, f"expected at most {most_s:g} s of sound, got more")
    units = await asyncio.to_thread(codec.tokenize, samples, sound.rate_hz)
    if not units:
        raise wrong(place, "expected sound, got none")
    return Units(tuple(units))


def item_json(item: Item, status: str | None = None) -> dict[str, Any]:
    """An item as clients see it; what they sent of sound and pictures does not come back."""
    content: list[dict[str, Any]]
    if item.role == "assistant":
        content = []
        if item.text and item.is_spoken:
            content = [{"type": "output_audio", "transcript": item.heard_text}]
        elif item.text:
            content = [{"type": "output_text", "text": item.text}]
    else:
        content = [_part_json(part, item) for part in item.parts]
    return {
        "id": item.item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status or item.status,
        "role": item.role,
        "content": content,
    }


def _part_json(part: str | Image | Units, item: Item) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if isinstance(part, Image):
        return {"type": "input_image"}
    return {"type": "input_audio", "transcript": item.transcript}
