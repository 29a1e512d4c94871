"""Who answers: a server over HTTP, or an engine in this process. Both are asked the same."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from typing import Any, Protocol

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.serving.http_client import Answer, HttpClient, HttpError, server_sent_data
from antiphon.bench.serving.questions import Question
from antiphon.bench.serving.reply import Failed, Reply
from antiphon.bench.serving.sound_length import SoundLength
from antiphon.errors import EngineDead, EngineOverloaded, InvalidRequest
from antiphon.types import AudioDelta, Finished, TextDelta

__all__ = ["EngineTarget", "HttpTarget", "Target"]

MAX_KIND_CHARS = 60


class Target(Protocol):
    """Something that answers questions."""

    name: str
    """For tables."""
    is_heard: bool
    """Whether its clients ask again only when they have heard the reply, as people do."""

    async def ask(self, question: Question, reply: Reply) -> None:
        """Note on `reply` what arrives, when it arrives. Raises Failed if the reply is not whole."""


class EngineTarget:
    """An engine in this process."""

    is_heard = False

    def __init__(self, engine: AsyncEngine, name: str = "in process") -> None:
        self.name = name
        self._engine = engine

    async def ask(self, question: Question, reply: Reply) -> None:
        try:
            async for event in self._engine.stream(question.request()):
                now_s = time.perf_counter()
                if isinstance(event, TextDelta):
                    if event.text:
                        reply.add_text(now_s)
                elif isinstance(event, AudioDelta):
                    reply.add_audio(now_s, len(event.samples) / event.sample_rate_hz)
                elif isinstance(event, Finished):
                    done = event.completion
                    reply.num_tokens = len(done.text_ids) + len(done.unit_ids)
                    if done.finish_reason in ("error", "abort"):
                        raise Failed(done.finish_reason)
        except EngineOverloaded as error:
            raise Failed("overloaded") from error
        except EngineDead as error:
            raise Failed("engine dead") from error
        except InvalidRequest as error:
            raise Failed(_short(f"refused: {error}")) from error


class HttpTarget:
    """A server that streams OpenAI's chat completions with speech."""

    name = "HTTP"
    is_heard = False

    def __init__(
        self,
        client: HttpClient,
        model: str,
        *,
        voice: str = "alloy",
        audio_format: str = "pcm16",
        extra: dict[str, Any] | None = None,
    ) -> None:
        """model: its name on the server. extra: fields that are added to each request's body."""
        self._client = client
        self._fields = {
            "model": model,
            "modalities": ["text", "audio"],
            "audio": {"voice": voice, "format": audio_format},
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        } | (extra or {})
        self._bodies: dict[Question, bytes] = {}

    async def ask(self, question: Question, reply: Reply) -> None:
        body = self._bodies.get(question)
        if body is None:
            messages = [{"role": "user", "content": question.content()}]
            body = json.dumps({"messages": messages} | self._fields).encode()
            self._bodies[question] = body
        try:
            async with self._client.send("POST", "/chat/completions", body) as answer:
                await _follow(answer, reply)
        except HttpError as error:
            raise Failed("no connection" if "cannot connect" in str(error) else "connection lost") from error


async def _follow(answer: Answer, reply: Reply) -> None:
    """Reads a streamed reply to its end."""
    if answer.status != 200:
        await answer.whole()
        raise Failed(f"status {answer.status}")
    sound, has_finished = SoundLength(), False
    async with aclosing(server_sent_data(answer)) as events:  # type: ignore[type-var]
        async for data in events:
            now_s = time.perf_counter()
            if data == b"[DONE]":
                async for _ in events:  # so that the connection can be used again
                    pass
                if not has_finished:
                    raise Failed("no finish reason")
                return
            try:
                has_finished |= _note(json.loads(data), now_s, reply, sound)
            except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
                raise Failed("an event of another kind") from error
    raise Failed("the stream broke off")


def _note(chunk: dict[str, Any], now_s: float, reply: Reply, sound: SoundLength) -> bool:
    """Takes in one chunk; whether it holds the finish reason."""
    if error := chunk.get("error"):
        raise Failed(_short(f"error: {error.get('code') or error.get('type') or 'unknown'}"))
    if usage := chunk.get("usage"):
        reply.num_tokens = int(usage["completion_tokens"])
    has_finished = False
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        audio = delta.get("audio") or {}
        if delta.get("content") or audio.get("transcript"):
            reply.add_text(now_s)
        if data := audio.get("data"):
            reply.add_audio(now_s, sound.add(data))
        has_finished |= choice.get("finish_reason") is not None
    return has_finished


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_KIND_CHARS]
