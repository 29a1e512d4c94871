"""Clients of /v1/realtime: openai's, and a bare one for what that hides."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import soundfile
from event_order import EventOrder
from http_server import Served
from openai_client import DEMO
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon.sound.resample import resample

__all__ = [
    "PICTURE",
    "PIECE_S",
    "Bare",
    "bare",
    "client",
    "joined",
    "question",
    "sound_file",
    "spoken_pieces",
    "url",
]

WAIT_S = 20
PIECE_S = 0.1


def client(served: Served, api_key: str = "any") -> openai.AsyncOpenAI:
    """openai's client, which speaks to WebSockets without TLS only if it is told the address."""
    base = f"{served.address}/v1"
    return openai.AsyncOpenAI(
        base_url=base,
        websocket_base_url=base.replace("http", "ws", 1),
        api_key=api_key,
        max_retries=0,
        # openai's own closes itself when it is collected, in whichever loop runs then: another test's
        http_client=openai.DefaultAsyncHttpxClient(),
    )


def url(served: Served, query: str = "", path: str = "/v1/realtime") -> str:
    return served.address.replace("http", "ws", 1) + path + (f"?{query}" if query else "")


def question(rate_hz: int = 24_000, *, before_s: float = 0.3, after_s: float = 0.9) -> np.ndarray:
    """The demo's question between silences, as float32: "What is in the picture?"."""
    samples, own_hz = soundfile.read(DEMO / "question.wav", dtype="float32")
    samples = resample(np.asarray(samples, np.float32), own_hz, rate_hz)
    return np.concatenate(
        [np.zeros(int(before_s * rate_hz), "f4"), samples, np.zeros(int(after_s * rate_hz), "f4")]
    )


def spoken_pieces(samples: np.ndarray, rate_hz: int = 24_000) -> list[str]:
    """Samples in base64, as a microphone gives them."""
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    size = 2 * int(PIECE_S * rate_hz)
    return [base64.b64encode(data[k : k + size]).decode() for k in range(0, len(data), size)]


def _picture() -> dict[str, Any]:
    data = base64.b64encode(Path(DEMO / "shapes.png").read_bytes()).decode()
    content = [{"type": "input_image", "image_url": f"data:image/png;base64,{data}"}]
    return {"type": "message", "role": "user", "content": content}


PICTURE: Any = _picture()
"""An item with the demo's picture."""


def joined(events: list[dict[str, Any]], kind: str) -> str:
    """The deltas of a kind."""
    return "".join(event["delta"] for event in events if event["type"] == kind)


def sound_file(events: list[dict[str, Any]], kind: str = "response.output_audio.delta") -> bytes:
    """The sound of 24 kHz pcm deltas as a wav file."""
    data = b"".join(base64.b64decode(event["delta"]) for event in events if event["type"] == kind)
    samples = np.frombuffer(data, "<i2")
    file = io.BytesIO()
    soundfile.write(file, samples, 24_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Bare:
    """A connection that keeps all events and checks their order."""

    def __init__(self, connection: ClientConnection, order: EventOrder | None) -> None:
        self.connection = connection
        self.order = order
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def read(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), WAIT_S))
        self.events.append(event)
        if self.order is not None:
            self.order.see(event)
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of this type."""
        while (event := await self.read())["type"] != kind:
            assert event["type"] != "error" or kind == "error", event
        return event

    async def to_the_end(self) -> int:
        """Reads the rest. Returns the code that the connection is closed with."""
        try:
            while True:
                await self.read()
        except ConnectionClosed:
            if self.order is not None:
                self.order.end()
        return self.connection.close_code or 0

    async def say(self, samples: np.ndarray, rate_hz: int = 24_000, *, pause_s: float = 0.0) -> None:
        """pause_s: between pieces of 0.1 s."""
        for piece in spoken_pieces(samples, rate_hz):
            await self.send("input_audio_buffer.append", audio=piece)
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def bare(
    served: Served, query: str = "", *, order: EventOrder | None = None, **options: Any
) -> AsyncIterator[Bare]:
    """A connection to /v1/realtime. order: None checks nothing."""
    async with connect(url(served, query), max_size=None, **options) as connection:
        yield Bare(connection, order)
