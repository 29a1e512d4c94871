"""`/v1/chat/completions`: text, pictures and speech in, text or speech out, whole or as it comes."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel

from antiphon.server.audio_output import encode_speech
from antiphon.server.event_stream import EVENTS, begun
from antiphon.server.json_body import JsonRoute
from antiphon.server.openai.chat_request import ChatRequest
from antiphon.server.openai.chat_stream import chat_events
from antiphon.server.openai.chat_turn import ChatTurn, read_chat
from antiphon.server.openai.schemas import ERRORS, Usage, finish_reason, input_transcript
from antiphon.server.service import Service, until_gone
from antiphon.types import Completion

__all__ = ["chat"]


class ReplyAudio(BaseModel):
    """A spoken reply."""

    id: str
    """By which later messages can refer to it."""
    data: str
    """The sound file, in base64."""
    expires_at: int
    transcript: str


class ReplyMessage(BaseModel):
    """A reply: content if it is text, audio if it is spoken."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: ReplyAudio | None = None


class Choice(BaseModel):
    """The one reply that there is."""

    index: Literal[0] = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    input_transcript: str | None = None
    """What was heard in the last message that holds speech; null if no message does. Not in OpenAI's API."""


def chat(service: Service) -> APIRouter:
    """`/v1/chat/completions`."""
    router = APIRouter(tags=["chat"], route_class=JsonRoute)

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={**ERRORS, 200: {"content": EVENTS}},
    )
    async def complete_chat(body: ChatRequest, http: HttpRequest) -> Any:
        """The reply to a conversation."""
        turn = await until_gone(http, read_chat(service, body))
        if body.stream:
            return await begun(http, chat_events(service, turn))
        return await until_gone(http, _whole(service, turn))

    return router


async def _whole(service: Service, turn: ChatTurn) -> ChatCompletion:
    with turn.conversation.named():
        completion = await service.complete(turn.request, turn.params)
    if turn.audio_format is None:
        message = ReplyMessage(content=completion.text)
    else:
        audio_id = service.kept_audio.new_id()
        service.kept_audio.keep(audio_id, completion.text)
        audio = ReplyAudio(
            id=audio_id.id,
            data=await asyncio.to_thread(_encoded, completion, turn.audio_format),
            expires_at=audio_id.expires_at,
            transcript=completion.text,
        )
        message = ReplyMessage(content=None, audio=audio)
    choice = Choice(message=message, finish_reason=finish_reason(completion.finish_reason))
    return ChatCompletion(
        id=turn.id,
        created=turn.created_s,
        model=turn.model,
        choices=[choice],
        usage=Usage.of(completion),
        input_transcript=input_transcript(completion),
    )


def _encoded(completion: Completion, audio_format: str) -> str:
    if completion.sample_rate_hz is None:
        return ""
    samples = np.zeros(0, np.float32) if completion.audio is None else completion.audio
    data = encode_speech(samples, completion.sample_rate_hz, audio_format, "audio.format")
    return base64.b64encode(data).decode("ascii")
