"""A server asked over OpenAI's realtime protocol: each question is spoken to it, at a person's pace."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from antiphon.bench.serving.questions import Question
from antiphon.bench.serving.reply import Failed, Reply
from antiphon.sound.arrays import AudioArray
from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["RealtimeTarget", "TurnEnd"]

TurnEnd = Literal["commit", "server_vad", "semantic_vad"]
"""Who says that a question is over: the client, at its last sample, or the server."""
RATE_HZ = 24000
PIECE_S = 0.02
QUIET_DB = -40.0
"""What is this far below the loudest moment is no speech."""
BYTES_PER_S = RATE_HZ * 2
MAX_SILENCE_S = 20.0
"""How long the client goes on sending silence for the server to find the end of its turn."""


class RealtimeTarget:
    """A server that speaks OpenAI's realtime protocol; each question has a session of its own.

    A reply is due when the last sample of speech has been sent.
    """

    is_heard = True

    def __init__(self, base_url: str, api_key: str | None, model: str, turn_end: TurnEnd) -> None:
        """base_url: that of the API over HTTP. model: its name on the server."""
        self.name = turn_end.replace("_", " ")
        self._url = f"ws{base_url.removeprefix('http')}/realtime?model={model}"
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._turn_end = turn_end

    async def ask(self, question: Question, reply: Reply) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        if question.sound is None:
            raise Failed("a question without sound")
        speech = _speech(question.sound)
        try:
            async with connect(
                self._url, additional_headers=self._headers, compression=None, max_size=None
            ) as socket:
                await self._prepare(socket, question)
                speaking = asyncio.create_task(self._speak(socket, speech, reply))
                try:
                    await _follow(socket, reply)
                finally:
                    speaking.cancel()
                    with suppress(asyncio.CancelledError, WebSocketException):
                        await speaking
        except (OSError, WebSocketException) as error:
            raise Failed("connection lost") from error

    async def _prepare(self, socket: ClientConnection, question: Question) -> None:
        """Nothing of this is measured."""
        detection = None if self._turn_end == "commit" else {"type": self._turn_end}
        sound = {"format": {"type": "audio/pcm", "rate": RATE_HZ}}
        audio = {"input": {**sound, "turn_detection": detection}, "output": sound}
        session = {"type": "realtime", "output_modalities": ["audio"], "audio": audio}
        await _send(socket, type="session.update", session=session)
        async for event in _events(socket):
            if event["type"] == "session.updated":
                break
        if question.picture is not None:
            (picture,) = (part for part in question.content() if part["type"] == "image_url")
            content = [{"type": "input_image", "image_url": picture["image_url"]["url"]}]
            item = {"type": "message", "role": "user", "content": content}
            await _send(socket, type="conversation.item.create", item=item)

    async def _speak(self, socket: ClientConnection, speech: bytes, reply: Reply) -> None:
        begun_s, step = time.perf_counter(), int(PIECE_S * BYTES_PER_S)
        for first in range(0, len(speech), step):
            piece = speech[first : first + step]
            await asyncio.sleep(begun_s + (first + len(piece)) / BYTES_PER_S - time.perf_counter())
            await _append(socket, piece)
        reply.due(time.perf_counter())
        if self._turn_end == "commit":
            await _send(socket, type="input_audio_buffer.commit")
            await _send(socket, type="response.create")
            return
        for number in range(1, int(MAX_SILENCE_S / PIECE_S)):
            await asyncio.sleep(begun_s + len(speech) / BYTES_PER_S + number * PIECE_S - time.perf_counter())
            await _append(socket, bytes(step))


async def _follow(socket: ClientConnection, reply: Reply) -> None:
    async for event in _events(socket):
        now_s, kind = time.perf_counter(), event["type"]
        if kind == "response.output_audio_transcript.delta":
            reply.add_text(now_s)
        elif kind == "response.output_audio.delta":
            reply.add_audio(now_s, len(base64.b64decode(event["delta"])) / BYTES_PER_S)
        elif kind == "response.done":
            response = event["response"]
            if response["status"] != "completed":
                raise Failed(f"response {response['status']}")
            reply.num_tokens = (response.get("usage") or {}).get("output_tokens")
            return
    raise Failed("connection lost")


async def _events(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    async for message in socket:
        event = json.loads(message)
        if event["type"] == "error":
            raise Failed(f"error: {event['error'].get('code') or event['error'].get('type')}")
        yield event


async def _append(socket: ClientConnection, sound: bytes) -> None:
    audio = base64.b64encode(sound).decode("ascii")
    await _send(socket, type="input_audio_buffer.append", audio=audio)


async def _send(socket: ClientConnection, **event: Any) -> None:
    await socket.send(json.dumps(event))


@lru_cache(maxsize=256)
def _speech(sound: bytes) -> bytes:
    """A recording up to its last sample of speech, as 16-bit samples at `RATE_HZ`."""
    samples, rate_hz = read_audio(sound)
    resampled = resample(samples, rate_hz, RATE_HZ)
    spoken = resampled[: _speech_end(resampled)]
    return (np.clip(spoken, -1, 1) * 32767).astype("<i2").tobytes()


def _speech_end(samples: AudioArray) -> int:
    hop = int(0.01 * RATE_HZ)
    powers = np.square(samples[: len(samples) // hop * hop].reshape(-1, hop)).mean(axis=1)
    (loud,) = np.nonzero(powers > powers.max() * 10 ** (QUIET_DB / 10))
    return int(loud[-1] + 1) * hop
