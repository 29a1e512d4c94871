"""`/v1/audio/speech`: a text as sound, which comes while it is spoken."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Discriminator, Field, Tag, field_validator

from antiphon.server.audio_output import AudioEncoder, check_format, media_type
from antiphon.server.event_stream import EVENTS, begun, error_event, event
from antiphon.server.json_body import JsonRoute
from antiphon.server.openai.schemas import ERRORS, Strict, by_form
from antiphon.server.openai.spoken_text import SpokenText
from antiphon.server.openai.voices import VoiceId, speaking_voice
from antiphon.server.service import Service, until_gone
from antiphon.server.tempo import Tempo, check_speed
from antiphon.sound.arrays import AudioArray

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["speech"]


class SpeechRequest(Strict):
    """What is to be said, and how. OpenAI's `instructions` cannot be honoured and are refused."""

    input: str = Field(min_length=1, max_length=4096)
    model: str = Field(max_length=1000)
    voice: (
        Annotated[Annotated[str, Tag("string")] | Annotated[VoiceId, Tag("other")], Discriminator(by_form)]
        | None
    ) = None
    """A voice of the codec; OpenAI's names, and none, are its default."""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"

    @field_validator("input")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not any(character.isalnum() for character in text):
            raise ValueError("expected text to speak")
        return text


class SpeechUsage(BaseModel):
    """Tokens of the text, and units of speech."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechDelta(BaseModel):
    """More of the sound file, in base64."""

    type: Literal["speech.audio.delta"]
    audio: str


class SpeechDone(BaseModel):
    """The last event."""

    type: Literal["speech.audio.done"]
    usage: SpeechUsage


def speech(service: Service) -> APIRouter:
    """`/v1/audio/speech`."""
    router = APIRouter(tags=["audio"], route_class=JsonRoute)
    sound = {"schema": {"type": "string", "format": "binary"}}
    kinds = {media_type(name): sound for name in ("mp3", "opus", "aac", "flac", "wav", "pcm")}

    @router.post(
        "/v1/audio/speech",
        response_class=StreamingResponse,
        responses={**ERRORS, 200: {"content": {**kinds, **EVENTS}}},
    )
    async def speak(body: SpeechRequest, http: HttpRequest) -> Any:
        """The text as a sound file, which is sent as it is spoken, or as events."""
        service.check_model(body.model)
        voice = speaking_voice(service, body.voice, "voice")
        check_format(body.response_format, "response_format")
        check_speed(body.speed)
        spoken = SpokenText(service, body.input, voice)
        await asyncio.to_thread(spoken.check)
        data = _encoded(spoken, body)
        if body.stream_format == "sse":
            return await begun(http, _events(spoken, data))
        try:
            first = await until_gone(http, anext(data))
        except BaseException:
            await data.aclose()
            raise
        return _SoundFile(first, data, media_type(body.response_format))

    return router


class _SoundFile(StreamingResponse):
    """An answer of bytes, of which the first are there. Their generator is closed however the answer ends."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], kind: str) -> None:
        self._first = first
        self._rest = rest
        super().__init__(self._all(), media_type=kind, headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)

    async def _all(self) -> AsyncIterator[bytes]:
        yield self._first
        async for each in self._rest:
            yield each


async def _encoded(spoken: SpokenText, body: SpeechRequest) -> AsyncGenerator[bytes, None]:
    """The bytes of the sound file, in pieces that are not empty."""
    encoder = AudioEncoder(body.response_format, spoken.rate_hz, param="response_format")
    tempo = Tempo(body.speed, spoken.rate_hz)
    async with aclosing(spoken.samples()) as pieces:
        async for samples in pieces:
            if data := await asyncio.to_thread(_pushed, encoder, tempo, samples):
                yield data
    if data := await asyncio.to_thread(_finished, encoder, tempo):
        yield data


def _pushed(encoder: AudioEncoder, tempo: Tempo, samples: AudioArray) -> bytes:
    return encoder.push(tempo.push(samples))


def _finished(encoder: AudioEncoder, tempo: Tempo) -> bytes:
    return encoder.push(tempo.finish()) + encoder.finish()


async def _events(spoken: SpokenText, data: AsyncGenerator[bytes, None]) -> AsyncGenerator[str, None]:
    has_begun = False
    try:
        async with aclosing(data):
            async for each in data:
                audio = base64.b64encode(each).decode("ascii")
                yield event(SpeechDelta(type="speech.audio.delta", audio=audio))
                has_begun = True
    except Exception as error:
        if not has_begun:
            raise  # there is still a status to tell it by
        yield error_event(error)
        return
    usage = SpeechUsage(
        input_tokens=spoken.num_tokens,
        output_tokens=spoken.num_units,
        total_tokens=spoken.num_tokens + spoken.num_units,
    )
    yield event(SpeechDone(type="speech.audio.done", usage=usage))
