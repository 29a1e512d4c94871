"""A server with the page and a realtime endpoint that says what a test wants: no model, no engine."""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from antiphon.server.page_routes import page
from antiphon.server.service import Service
from antiphon.server.site import address_of

__all__ = ["MODEL", "MockRealtime", "Reply", "mock_realtime"]

MODEL = "mock-omni"
RATE_HZ = 24000
WORD_MS = 300
"""How long each word of a reply sounds."""
LOUD = 0.02
"""Frames whose root mean square is above this are speech."""
SILENCE_MS = 300
"""After this a turn is over."""
SUBPROTOCOL = "openai-insecure-api-key."


@dataclass
class Reply:
    """What the server answers with."""

    text: str = "There is a red circle and a small blue square in it."
    status: str = "completed"
    error: dict[str, Any] | None = None
    pace: float = 4.0
    """Seconds of sound that are sent in a second."""


@dataclass
class MockRealtime:
    """The server. A test sets what it does, and looks at what it was sent."""

    address: str = ""
    key: str | None = None
    is_full: bool = False
    is_resumable: bool = True
    heard: str = "What can you see in the picture?"
    """What is understood of any speech."""
    reply: Reply = field(default_factory=Reply)
    sent: list[dict[str, Any]] = field(default_factory=list)
    """All client events so far."""
    handshakes: list[dict[str, str]] = field(default_factory=list)
    """The query of each connection."""
    sessions: dict[str, _Session] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop | None = None

    def types(self) -> list[str]:
        """Types of the client's events in order, without those that come many times."""
        many = ("input_audio_buffer.append", "antiphon.output_audio.played")
        return [event["type"] for event in self.sent if event["type"] not in many]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.sent if event["type"] == kind]

    def cut(self, code: int = 1012) -> None:
        """Break all connections."""
        self._call(*(session.cut(code) for session in self.sessions.values()))

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event to all clients."""
        self._call(*(session.emit(kind, **fields) for session in self.sessions.values()))

    def _call(self, *calls: Any) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*calls)

        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(all_of_them(), self.loop).result(10)


class _Session:
    """One conversation, which outlives its connections."""

    def __init__(self, server: MockRealtime) -> None:
        self.server = server
        self.token = uuid.uuid4().hex
        self.log: list[dict[str, Any]] = []
        self.socket: WebSocket | None = None
        self.detection: dict[str, Any] | None = {"type": "server_vad"}
        self.modalities = ["audio"]
        self.tells_spoken = False
        self.num_ms = 0.0
        self.silent_ms = 0.0
        self.item: str | None = None
        self.words: list[str] = []
        self.replying: asyncio.Task[None] | None = None

    async def emit(self, kind: str, **fields: Any) -> None:
        number = len(self.log)
        event = {"type": kind, "event_id": f"event_{number}", "sequence_number": number, **fields}
        self.log.append(event)
        if self.socket is not None:
            with suppress(RuntimeError, WebSocketDisconnect):
                await self.socket.send_json(event)

    async def cut(self, code: int) -> None:
        if self.socket is not None:
            socket, self.socket = self.socket, None
            with suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(code)

    async def receive(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "session.update":
            audio = event["session"].get("audio", {})
            self.detection = audio.get("input", {}).get("turn_detection", self.detection)
            self.modalities = event["session"].get("output_modalities", self.modalities)
            self.tells_spoken = event["session"].get("antiphon_events", self.tells_spoken)
            await self.emit("session.updated", session=event["session"])
        elif kind == "input_audio_buffer.append":
            await self.listen(np.frombuffer(base64.b64decode(event["audio"]), "<i2"))
        elif kind == "input_audio_buffer.commit":
            await self.end_turn()
        elif kind == "input_audio_buffer.clear":
            self.item = None
            await self.emit("input_audio_buffer.cleared")
        elif kind == "conversation.item.create":
            await self.emit("conversation.item.added", item=event["item"], previous_item_id=None)
        elif kind == "response.create":
            self.begin_reply()
        elif kind == "response.cancel":
            await self.stop_reply("client_cancelled")

    async def listen(self, samples: Any) -> None:
        length_ms = len(samples) / RATE_HZ * 1000
        self.num_ms += length_ms
        is_loud = float(np.sqrt(np.mean((samples / 32768.0) ** 2))) > LOUD
        if self.item is None and (is_loud or self.detection is None):
            self.item, self.words = f"item_{uuid.uuid4().hex}", self.server.heard.split()
            self.silent_ms = 0.0
            if self.detection is not None:
                await self.emit(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=int(self.num_ms - length_ms),
                    item_id=self.item,
                )
                await self.stop_reply("turn_detected")
        if self.item is None:
            return
        self.silent_ms = 0.0 if is_loud else self.silent_ms + length_ms
        if is_loud and self.words and int(self.num_ms) % 100 < length_ms:
            await self.transcribe(self.words.pop(0) + " ")
        if self.detection is not None and self.silent_ms >= SILENCE_MS:
            end_ms = int(self.num_ms - self.silent_ms)
            await self.emit("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=self.item)
            await self.end_turn()
            self.begin_reply()

    async def transcribe(self, delta: str) -> None:
        kind = "conversation.item.input_audio_transcription.delta"
        await self.emit(kind, item_id=self.item, content_index=0, delta=delta)

    async def end_turn(self) -> None:
        item, self.item = self.item or f"item_{uuid.uuid4().hex}", None
        await self.emit("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        await self.emit(
            "conversation.item.input_audio_transcription.completed",
            item_id=item,
            content_index=0,
            transcript=self.server.heard,
        )

    def begin_reply(self) -> None:
        self.replying = asyncio.create_task(self.answer(self.server.reply))

    async def stop_reply(self, reason: str) -> None:
        if self.replying is None or self.replying.done():
            return
        self.replying.cancel(reason)
        await asyncio.gather(self.replying, return_exceptions=True)

    async def answer(self, reply: Reply) -> None:
        response = {"id": f"resp_{uuid.uuid4().hex}", "object": "realtime.response", "status": "in_progress"}
        await self.emit("response.created", response=response)
        place = {"response_id": response["id"], "item_id": f"item_{uuid.uuid4().hex}"}
        place_in = {**place, "output_index": 0, "content_index": 0}
        done: dict[str, Any] = {"status": reply.status, "status_details": None}
        try:
            if reply.error is not None:
                done["status_details"] = {"type": reply.status, "error": reply.error}
            elif self.modalities == ["audio"]:
                await self.speak(reply, place, place_in)
            else:
                await self.write(reply, place_in)
        except asyncio.CancelledError as cancelled:
            details = {"type": "cancelled", "reason": str(cancelled)}
            done = {"status": "cancelled", "status_details": details}
        await self.emit("response.done", response={**response, **done})

    async def write(self, reply: Reply, place: dict[str, Any]) -> None:
        for word in reply.text.split():
            await self.emit("response.output_text.delta", **place, delta=word + " ")
            await asyncio.sleep(0.02)
        await self.emit("response.output_text.done", **place, text=reply.text)

    async def speak(self, reply: Reply, place: dict[str, Any], place_in: dict[str, Any]) -> None:
        num_chars, tone = 0, _tone()
        for index, word in enumerate(reply.text.split()):
            delta = word if index == 0 else " " + word
            num_chars += len(delta)
            start_ms, end_ms = index * WORD_MS, (index + 1) * WORD_MS
            await self.emit("response.output_audio_transcript.delta", **place_in, delta=delta)
            if self.tells_spoken:
                await self.emit("antiphon.output_audio.spoken", **place, num_chars=num_chars, end_ms=end_ms)
            await self.emit("response.output_audio.delta", **place_in, delta=tone, start_ms=start_ms)
            await asyncio.sleep(WORD_MS / 1000 / reply.pace)
        await self.emit("response.output_audio.done", **place_in)
        await self.emit("response.output_audio_transcript.done", **place_in, transcript=reply.text)


def _tone() -> str:
    """A word's length of sound, in base64."""
    seconds = np.arange(RATE_HZ * WORD_MS // 1000) / RATE_HZ
    sound = 0.2 * np.sin(2 * np.pi * 220 * seconds) * np.sin(np.pi * seconds * 1000 / WORD_MS)
    return base64.b64encode((sound * 32767).astype("<i2").tobytes()).decode()


def _app(mock: MockRealtime) -> FastAPI:
    app = FastAPI()
    app.include_router(page(cast(Service, None)))

    def knows(request: HttpRequest) -> bool:
        return mock.key is None or request.headers.get("authorization") == f"Bearer {mock.key}"

    @app.get("/v1/models")
    async def models(request: HttpRequest) -> JSONResponse:
        return JSONResponse({"data": [{"id": MODEL}]}, 200 if knows(request) else 401)

    @app.get("/v1/audio/voices")
    async def voices(request: HttpRequest) -> JSONResponse:
        return JSONResponse({"data": [{"id": "anna", "name": "Anna"}]}, 200 if knows(request) else 401)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        query, offered = dict(socket.query_params), socket.scope["subprotocols"]
        mock.handshakes.append(query)
        await socket.accept("realtime" if "realtime" in offered else None)
        if mock.key is not None and SUBPROTOCOL + mock.key not in offered:
            await socket.close(1008, "invalid_api_key")
            return
        if mock.is_full:
            await socket.close(1013, "the server is full")
            return
        if "resume" in query:
            found = mock.sessions.get(query["resume"]) if mock.is_resumable else None
            if found is None:
                await socket.close(4404, "no such session")
                return
            session, session.socket = found, socket
            for event in session.log[int(query["after"]) + 1 :]:
                await socket.send_json(event)
        else:
            session = _Session(mock)
            session.socket = socket
            mock.sessions[session.token] = session
            session_fields = {"type": "realtime", "model": MODEL, "resume_token": session.token}
            await session.emit("session.created", session=session_fields)
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                event = await socket.receive_json()
                mock.sent.append(event)
                await session.receive(event)

    return app


@contextmanager
def mock_realtime(**settings: Any) -> Iterator[MockRealtime]:
    """Serve until the block ends. settings: of `MockRealtime`."""
    mock = MockRealtime(**settings)
    config = uvicorn.Config(_app(mock), port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    started = threading.Event()

    async def run() -> None:
        mock.loop = asyncio.get_running_loop()
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            mock.address = address_of(server.servers[0].sockets[0])
        started.set()
        await serving

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="mock-realtime")
    thread.start()
    try:
        started.wait()
        assert mock.address, "the server did not start"
        yield mock
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()
