"""One WebSocket and the session that it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from antiphon.server.errors import ApiError
from antiphon.server.realtime.talk import FULL, Talk
from antiphon.server.realtime.talks import Holder, Talks

__all__ = ["NOT_FOUND", "accept", "carry", "full_error", "turn_away"]

NOT_FOUND, TAKEN = 4404, 4409
"""Codes of ours: there is no such session to come back to; another socket has taken it."""
PROTOCOL = "realtime"
ENDED = frozenset({1000, 1005})
"""Codes with which a client ends a session rather than loses it."""


async def accept(websocket: WebSocket) -> None:
    """Take the connection, in the subprotocol that browsers ask for."""
    offered: Sequence[str] = websocket.scope.get("subprotocols", [])
    await websocket.accept(PROTOCOL if PROTOCOL in offered else None)


def full_error() -> ApiError:
    """Why there is no session while there are as many as may be."""
    message = "the server holds as many conversations as it may"
    return ApiError(429, message, kind="rate_limit_error", code="full")


async def turn_away(websocket: WebSocket, code: int, error: ApiError) -> None:
    """Tell a client why it gets no session, and close. The connection must have been accepted."""
    with suppress(WebSocketDisconnect, RuntimeError):
        event = {"type": "error", "event_id": "event_0", "error": {**error.body()["error"], "event_id": None}}
        await websocket.send_text(json.dumps(event))
        await websocket.close(code, error.message[:100] if code != FULL else "the server is full")


async def carry(talks: Talks, websocket: WebSocket, talk: Talk, after: int | None = None) -> None:
    """Carry a session's events both ways, until it ends or its client is gone. after: see `Talks.attach`."""
    holder = Holder()
    if not await talks.attach(talk, holder, after):
        error = ApiError(404, "there is no such event to come back to", code="session_not_found")
        await turn_away(websocket, NOT_FOUND, error)
        return
    may_return = True
    sender = asyncio.create_task(_send(websocket, talk))
    receiver = asyncio.create_task(_receive(websocket, talk))
    watch = asyncio.create_task(holder.is_taken.wait())
    try:
        await asyncio.wait([sender, receiver, watch], return_when=asyncio.FIRST_COMPLETED)
        if holder.is_taken.is_set():
            sender.cancel()
            await asyncio.wait([sender])
            holder.has_left.set()
            with suppress(WebSocketDisconnect, RuntimeError):
                await websocket.close(TAKEN, "another connection has taken the session")
        elif sender.done() and sender.result():
            may_return = False
            with suppress(WebSocketDisconnect, RuntimeError):
                await websocket.close(talk.close_code, talk.close_reason)
        elif receiver.done():
            may_return = not receiver.result()
    finally:
        for task in (sender, receiver, watch):
            task.cancel()
        talks.detach(talk, holder, may_return=may_return)


async def _send(websocket: WebSocket, talk: Talk) -> bool:
    """Send what there is until the session's end, or until nobody is there: whether it was the end."""
    try:
        while (text := await talk.outbox.take()) is not None:
            await websocket.send_text(text)
    except (WebSocketDisconnect, RuntimeError):
        return False
    return True


async def _receive(websocket: WebSocket, talk: Talk) -> bool:
    """Receive what the client sends until it is gone: whether it has closed the session."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return "reason" in message and message.get("code") in ENDED  # a lost connection has no reason
        text = message.get("text")
        await talk.receive(text if text is not None else message.get("bytes") or b"")
