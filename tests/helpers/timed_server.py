"""A server that streams replies by the clock, so that what a client measures is known beforehand."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

__all__ = ["Piece", "Script", "TimedServer", "timed_server"]

RATE_HZ = 24_000


@dataclass(frozen=True)
class Piece:
    """Something that is sent `at_s` after its request."""

    at_s: float
    text: str = ""
    audio_s: float = 0.0
    raw: bytes | None = None
    """Sent as it stands."""


@dataclass(frozen=True)
class Script:
    """One reply."""

    pieces: tuple[Piece, ...] = ()
    status: int = 200
    num_tokens: int | None = None
    finishes: bool = True
    """Whether it ends with a finish reason and [DONE]."""


@dataclass
class TimedServer:
    """An ASGI application of which `script` says, by the number of a request from 0, how it is answered."""

    script: Callable[[int], Script]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0
    connections: set[tuple[str, int]] = field(default_factory=set)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.connections.add(tuple(scope["client"]))
        if scope["path"] == "/v1/models":
            await _answer(send, 200, json.dumps({"data": [{"id": "timed"}]}).encode())
            return
        begun_s, body = time.perf_counter(), b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        number = len(self.bodies)
        self.bodies.append(json.loads(body + message["body"]))
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await self._reply(self.script(number), begun_s, send)
        finally:
            self.running -= 1

    async def _reply(self, script: Script, begun_s: float, send: Any) -> None:
        if script.status != 200:
            await _answer(send, script.status, b'{"error": {"message": "as the script says"}}')
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        for piece in script.pieces:
            await asyncio.sleep(max(0.0, begun_s + piece.at_s - time.perf_counter()))
            content = piece.raw if piece.raw is not None else _event(_chunk(piece))
            await send({"type": "http.response.body", "body": content, "more_body": True})
        last = b""
        if script.finishes:
            last += _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if script.num_tokens is not None:
                last += _event({"choices": [], "usage": {"completion_tokens": script.num_tokens}})
            last += b"data: [DONE]\n\n"
        await send({"type": "http.response.body", "body": last})


@contextmanager
def timed_server(script: Callable[[int], Script]) -> Iterator[tuple[str, TimedServer]]:
    """The server's address with /v1, and the server."""
    app = TimedServer(script)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server has ended before it began"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", app
    finally:
        server.should_exit = True
        thread.join()


def _chunk(piece: Piece) -> dict[str, Any]:
    audio: dict[str, Any] = {}
    if piece.text:
        audio["transcript"] = piece.text
    if piece.audio_s:
        audio["data"] = base64.b64encode(bytes(2 * round(piece.audio_s * RATE_HZ))).decode()
    return {"choices": [{"index": 0, "delta": {"audio": audio}, "finish_reason": None}]}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
