"""A chat's reply as it comes: chunks of `/v1/chat/completions`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from pydantic import BaseModel

from antiphon.server.audio_output import AudioEncoder, Blocks
from antiphon.server.event_stream import DONE, error_event, event
from antiphon.server.openai.chat_turn import ChatTurn
from antiphon.server.openai.schemas import Usage, finish_reason, input_transcript
from antiphon.server.service import Service, checked
from antiphon.sound.arrays import AudioArray
from antiphon.types import AudioDelta, Completion, Finished, TextDelta

__all__ = ["ChatChunk", "chat_events"]

BLOCK_BYTES = 6
"""Clients join base64 as text, so every piece but the last must be a multiple of 3 bytes, and of whole
samples."""


class DeltaAudio(BaseModel):
    """More of a spoken reply. Clients add up what has one name, so the id and the time come only once."""

    id: str | None = None
    transcript: str | None = None
    data: str | None = None
    """Base64, to be joined before it is decoded."""
    expires_at: int | None = None


class Delta(BaseModel):
    """More of a reply."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    audio: DeltaAudio | None = None


class ChunkChoice(BaseModel):
    """More of the one reply that there is."""

    index: Literal[0]
    delta: Delta
    finish_reason: Literal["stop", "length"] | None


class ChatChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    input_transcript: str | None = None
    """In the chunk that says why the reply has ended, if a message holds speech. Not in OpenAI's API."""


async def chat_events(service: Service, turn: ChatTurn) -> AsyncGenerator[str, None]:
    """The events of a streamed answer. Whatever goes wrong before the first is raised; later, it is an event.
    `[DONE]` is always the last."""
    chunks = _Chunks(turn)
    audio_id = service.kept_audio.new_id()
    speech = _SpeechStream(turn.audio_format) if turn.audio_format is not None else None
    said, has_begun = "", False
    try:
        with turn.conversation.named():
            async with aclosing(service.stream(turn.request, turn.params)) as events:
                async for each in events:
                    completion = checked(each.completion) if isinstance(each, Finished) else None
                    if not has_begun:
                        has_begun = True
                        yield chunks.first(None if speech is None else audio_id.id)
                    if isinstance(each, TextDelta):
                        said += each.text
                        yield chunks.text(each.text)
                    elif isinstance(each, AudioDelta) and speech is not None:
                        if data := await asyncio.to_thread(speech.push, each.samples, each.sample_rate_hz):
                            yield chunks.audio(data=data)
                    elif completion is not None:
                        if speech is not None:
                            service.kept_audio.keep(audio_id, said)
                            data = await asyncio.to_thread(speech.finish, completion.sample_rate_hz)
                            yield chunks.audio(data=data, expires_at=audio_id.expires_at)
                        for last in chunks.last(completion):
                            yield last
    except Exception as error:
        if not has_begun:
            raise
        yield error_event(error)
    finally:
        if speech is not None and said:  # also what a client has heard before it left
            service.kept_audio.keep(audio_id, said)
    yield DONE


class _Chunks:
    def __init__(self, turn: ChatTurn) -> None:
        self._turn = turn

    def first(self, audio_id: str | None) -> str:
        if audio_id is None:
            return self._told(Delta(role="assistant", content=""))
        return self._told(Delta(role="assistant", audio=DeltaAudio(id=audio_id, transcript="")))

    def text(self, text: str) -> str:
        if self._turn.audio_format is None:
            return self._told(Delta(content=text))
        return self.audio(transcript=text)

    def audio(self, **fields: Any) -> str:
        return self._told(Delta(audio=DeltaAudio(**fields)))

    def last(self, completion: Completion) -> list[str]:
        """The chunk that says why the reply has ended, and the one that says what it took."""
        end = ChunkChoice(index=0, delta=Delta(), finish_reason=finish_reason(completion.finish_reason))
        heard = input_transcript(completion)
        found = [event(self._chunk([end], **({} if heard is None else {"input_transcript": heard})))]
        if self._turn.include_usage:
            found.append(event(self._chunk([], usage=Usage.of(completion))))
        return found

    def _told(self, delta: Delta) -> str:
        return event(self._chunk([ChunkChoice(index=0, delta=delta, finish_reason=None)]))

    def _chunk(self, choices: list[ChunkChoice], **fields: Any) -> ChatChunk:
        turn = self._turn
        return ChatChunk(
            id=turn.id,
            object="chat.completion.chunk",
            created=turn.created_s,
            model=turn.model,
            choices=choices,
            **fields,
        )


class _SpeechStream:
    """Samples to pieces of base64."""

    def __init__(self, audio_format: str) -> None:
        self._format = audio_format
        self._encoder: AudioEncoder | None = None
        self._blocks = Blocks(BLOCK_BYTES)

    def push(self, samples: AudioArray, rate_hz: int) -> str:
        return _base64(self._blocks.push(self._opened(rate_hz).push(samples)))

    def finish(self, rate_hz: int | None) -> str:
        """rate_hz: of speech, even if none came."""
        if rate_hz is None:
            return ""
        data = self._blocks.push(self._opened(rate_hz).finish())
        return _base64(data + self._blocks.finish())

    def _opened(self, rate_hz: int) -> AudioEncoder:
        if self._encoder is None:
            self._encoder = AudioEncoder(self._format, rate_hz, param="audio.format")
        return self._encoder


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
