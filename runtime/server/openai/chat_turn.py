"""A request to `/v1/chat/completions` as the engine takes it, and what its answer needs to know."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from antiphon.server.audio_output import check_format
from antiphon.server.openai.chat_messages import read_messages
from antiphon.server.openai.chat_request import ChatRequest
from antiphon.server.openai.conversation import Conversation, wrong
from antiphon.server.openai.schemas import sampling_params
from antiphon.server.openai.voices import speaking_voice
from antiphon.server.service import Service
from antiphon.types import Request, SamplingParams

__all__ = ["ChatTurn", "read_chat"]


@dataclass(frozen=True)
class ChatTurn:
    """One reply that is to be given."""

    id: str
    created_s: int
    model: str
    request: Request
    params: SamplingParams
    audio_format: str | None
    """Of the spoken reply; None: the reply is text."""
    conversation: Conversation
    """The request's messages; its errors are to be named by this."""
    include_usage: bool


async def read_chat(service: Service, body: ChatRequest) -> ChatTurn:
    """A client's request, its media read. ApiError for what cannot be served."""
    model = service.check_model(body.model)
    speaks = _speaks(body)
    params = _params(body, speaks=speaks)
    voice = None
    if speaks:
        assert body.audio is not None
        check_format(body.audio.format, "audio.format")
        voice = speaking_voice(service, body.audio.voice, "audio.voice")
    if body.stream_options is not None and not body.stream:
        raise wrong("stream_options", "it needs stream")
    reply_id = f"chatcmpl-{uuid.uuid4().hex}"
    conversation = await read_messages(service, body.messages)
    request = Request(
        messages=conversation.messages,
        modalities=("text", "audio") if speaks else ("text",),
        voice=voice,
        request_id=reply_id,
    )
    return ChatTurn(
        reply_id,
        int(time.time()),
        model,
        request,
        params,
        body.audio.format if body.audio is not None else None,
        conversation,
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
    )


def _speaks(body: ChatRequest) -> bool:
    """Whether a spoken reply is asked for."""
    wanted = sorted(body.modalities or ["text"])
    if wanted not in (["text"], ["audio", "text"]):
        shown = ", ".join(wanted)
        raise wrong("modalities", f'expected ["text"] or ["text", "audio"], got [{shown}]')
    if wanted == ["text"]:
        if body.audio is not None:
            raise wrong("audio", 'it needs the modalities ["text", "audio"]')
        if body.max_units is not None:
            raise wrong("max_units", 'it needs the modalities ["text", "audio"]')
        return False
    if body.audio is None:
        raise wrong("audio", "a spoken reply needs its voice and its format")
    if body.stop:
        raise wrong("stop", "it ends text-only replies, got a request for a spoken one")
    return True


def _params(body: ChatRequest, *, speaks: bool) -> SamplingParams:
    limits = {body.max_completion_tokens, body.max_tokens} - {None}
    if len(limits) > 1:
        raise wrong("max_tokens", "it is the older name of max_completion_tokens, got two values")
    return sampling_params(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        max_tokens=next(iter(limits), None),
        max_units=body.max_units,
        ignore_eos=body.ignore_eos,
        stop=None if speaks else body.stop,
    )
