"""`/v1/audio/voices`: the codec's voices, and those that clients clone from a clip."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Form, UploadFile
from pydantic import BaseModel, Field, field_validator

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.server.errors import ApiError
from antiphon.server.openai.schemas import Strict, errors
from antiphon.server.openai.voices import OPENAI_VOICES
from antiphon.server.service import Service

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["MAX_CLONED", "voices"]

MAX_CLONED = 100
"""Voices that clients may have at a time: each keeps its clip's units and mel in memory."""
CLIP_LIMITS = InputLimits(max_audio_bytes=10 << 20, max_audio_s=30.0)


class VoiceForm(Strict):
    """A voice to clone."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    """Letters, digits, `_`, `.` and `-`; it is the voice's id, too."""
    audio_sample: UploadFile
    """1 to 30 s of one person's speech, of at most 10 MiB."""
    type: Literal["audio_sample"] = "audio_sample"
    consent: str | None = Field(default=None, max_length=1000)
    """Without effect: that the person agrees is for the operator to see to."""

    @field_validator("name")
    @classmethod
    def _is_new(cls, name: str) -> str:
        if name in OPENAI_VOICES:
            raise ValueError(f"expected a name that is not one of OpenAI's, got {name!r}")
        return name


class Voice(BaseModel):
    """A voice, as OpenAI describes it."""

    id: str
    object: Literal["audio.voice"] = "audio.voice"
    name: str
    created_at: int
    type: Literal["audio_sample", "built_in"]


class VoiceList(BaseModel):
    """All voices, the codec's own first."""

    object: Literal["list"] = "list"
    data: list[Voice]


class DeletedVoice(BaseModel):
    """A voice that is no more."""

    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: Literal[True] = True


def voices(service: Service) -> APIRouter:
    """`/v1/audio/voices`."""
    router = APIRouter(tags=["audio"])
    created_s: dict[str, int] = {}
    """When each cloned voice was made, on the clock of `time.time`."""
    adding = asyncio.Lock()

    def described(name: str) -> Voice:
        kind: Literal["audio_sample", "built_in"] = "audio_sample" if name in created_s else "built_in"
        return Voice(id=name, name=name, created_at=created_s.get(name, service.started_s), type=kind)

    @router.get("/v1/audio/voices", responses=errors(401, 500, 503))
    async def list_voices() -> VoiceList:
        """The voices that can be named."""
        codec = service.engine.engine.codec
        return VoiceList(data=[described(name) for name in (codec.voices if codec is not None else [])])

    @router.post("/v1/audio/voices", responses=errors(400, 401, 413, 500, 503))
    async def create_voice(form: Annotated[VoiceForm, Form(media_type="multipart/form-data")]) -> Voice:
        """Clone the voice of a clip. It lasts as long as the server."""
        codec = _speaking_codec(service)
        data = await form.audio_sample.read()
        async with adding:
            if len(created_s.keys() & set(codec.voices)) >= MAX_CLONED:
                raise ApiError(
                    400,
                    f"there are {MAX_CLONED} cloned voices already: delete one first",
                    param="name",
                    code="too_many_voices",
                )
            await asyncio.to_thread(_clone, codec, form.name, data)
            created_s[form.name] = int(time.time())
        return described(form.name)

    @router.delete("/v1/audio/voices/{voice}", responses=errors(400, 401, 404, 500, 503))
    async def delete_voice(voice: str) -> DeletedVoice:
        """Forget a cloned voice."""
        codec = _speaking_codec(service)
        if voice not in codec.voices:
            raise ApiError(404, f"voice: there is no {voice[:100]!a}", param="voice", code="voice_not_found")
        codec.remove_voice(voice)
        created_s.pop(voice, None)
        return DeletedVoice(id=voice)

    return router


def _speaking_codec(service: Service) -> Codec:
    codec = service.engine.engine.codec
    if codec is None:
        raise ApiError(400, "voice: this server has no codec, so it has no voices", code="unsupported_value")
    return codec


def _clone(codec: Codec, name: str, data: bytes) -> None:
    """Add a voice; ApiError for a clip that cannot be used."""
    from antiphon.sound.reading import read_audio

    try:
        codec.add_voice(name, *read_audio(data, CLIP_LIMITS))
    except InvalidRequest as error:
        reason = str(error)
        if reason.startswith("audio: "):
            told = reason.removeprefix("audio: ").removeprefix("these bytes: ")
            raise ApiError(
                400, f"audio_sample: {told}", param="audio_sample", code="invalid_value"
            ) from error
        if codec.speaker_encoder is None or codec.tokenizer is None:
            raise ApiError(400, reason, param="audio_sample", code="unsupported_value") from error
        raise ApiError(
            400, f"name: {reason.removeprefix('voice: ')}", param="name", code="invalid_value"
        ) from error
